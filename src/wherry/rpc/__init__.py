"""Services written once, and the adapters that serve and call them over gRPC, over ttrpc and in the same process."""

"""The distribution protocol: OCI distribution specification 1.1, and the Docker registry HTTP API V2 before it."""

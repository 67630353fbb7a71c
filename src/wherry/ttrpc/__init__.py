"""ttrpc: gRPC's small sibling for unix sockets. Frames and calls as a state machine, then I/O over it."""

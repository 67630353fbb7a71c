"""The thin middle: sockets, services, bundles, and the shims that hold the containers."""

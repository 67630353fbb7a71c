"""Tasks: from a container's record to a shim that runs it."""

"""The mount manager: mounts that a client cannot make by itself, made for it."""

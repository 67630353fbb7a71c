"""Images moved between registries, archives and a daemon."""

"""wherry: containerd's run flow in Python."""

__version__ = "0.1.0"

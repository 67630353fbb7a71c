"""Shims' sockets: containerd's path rule, which `ctr shim` computes for itself."""

from __future__ import annotations

import hashlib
import os
import socket

#: containerd's own, whatever the daemon's state directory is.
FOLDER = "/run/containerd/s"


def path_for(daemon_address: str, namespace: str, id: str) -> str:
    """Return where the shim of a task listens: named by a hash of the daemon's gRPC address, namespace and id."""
    name = os.path.normpath(os.path.join(daemon_address, namespace, id))
    return f"{FOLDER}/{hashlib.sha256(name.encode()).hexdigest()}"


def listen(path: str) -> socket.socket:
    """Bind and listen, for this user only, over a stale socket of the same name."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # as it should be
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # No moment with wider permissions: the mode is taken from the descriptor before it is bound.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock

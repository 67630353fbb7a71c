"""Where shims listen: containerd's path rule, which daemons, shims and `ctr shim` each compute for themselves."""

from __future__ import annotations

import os
import socket

#: containerd's own, whatever a daemon's state directory is.
FOLDER = "/run/containerd/s"


def path_for(daemon_address: str, namespace: str, id: str) -> str:
    """Return the socket's path: a hash of the daemon's gRPC address, the namespace and the task's id or group."""
    import hashlib  # not before it is needed: it brings OpenSSL with it, 5 MB

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
        # No moment with wider permissions: the file takes its mode from the descriptor.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        os.chmod(path, 0o600)
        sock.listen(128)
    except BaseException:
        sock.close()
        raise
    return sock

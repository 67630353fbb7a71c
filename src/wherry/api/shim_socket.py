"""Where shims listen: containerd's path rule, which daemons, shims and `ctr shim` each compute for themselves."""

from __future__ import annotations

import json
import os
import socket

#: containerd's own, whatever a daemon's state directory is.
FOLDER = "/run/containerd/s"

#: Annotations whose value names the shim that several containers share, the first that is there.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def path_for(daemon_address: str, namespace: str, id: str) -> str:
    """Return the socket's path: a hash of the daemon's gRPC address, the namespace and the task's id or group."""
    import hashlib  # not before it is needed: it brings OpenSSL with it, 5 MB

    name = os.path.normpath(os.path.join(daemon_address, namespace, id))
    return f"{FOLDER}/{hashlib.sha256(name.encode()).hexdigest()}"


def group_of(bundle: str, id: str) -> str:
    """Return the group of a bundle's container: its own id unless an annotation says otherwise."""
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            annotations = json.load(file).get("annotations") or {}
    except (FileNotFoundError, ValueError, AttributeError):
        return id  # what is wrong with a specification is the OCI runtime's to say
    for name in _GROUPS:
        if annotations.get(name):
            return str(annotations[name])
    return id


def answers(path: str) -> bool:
    """Tell whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


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

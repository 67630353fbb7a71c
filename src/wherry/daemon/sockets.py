"""The daemon's own sockets and its lock on the root directory."""

from __future__ import annotations

import fcntl
import os
import socket

from wherry.errors import FailedPrecondition

_LOCK_FILE = "wherryd.pid"


def lock_root(root: str) -> int:
    """Make the root directory and lock it for this process; return the lock's descriptor, which holds it.

    FailedPrecondition, naming the other's pid, if another daemon has it.
    """
    os.makedirs(root, mode=0o711, exist_ok=True)
    fd = os.open(os.path.join(root, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode().strip() or "?"
        os.close(fd)
        raise FailedPrecondition(
            f"root {root} is in use by the wherryd with pid {owner}: stop it, or give this one another --root"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def make_way(path: str) -> None:
    """Make the directory of a socket, and remove the socket a dead daemon left there.

    FailedPrecondition if somebody answers on it, or something else is in its place.
    """
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise FailedPrecondition(f"socket {path}: {(error.strerror or '').lower()}: remove what is there") from None
    raise FailedPrecondition(
        f"socket {path} answers: a daemon is running there; stop it, or give this one another --address"
    )


def listen(path: str) -> socket.socket:
    """Bind a listening socket at a path for this user and group: 0660."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o117)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(512)
    except BaseException:
        sock.close()
        raise
    return sock


def notify(state: str) -> None:
    """Tell the service manager something, if there is one: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())

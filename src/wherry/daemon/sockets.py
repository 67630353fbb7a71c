"""What a daemon has to itself: its sockets, and the locks on its directories."""

from __future__ import annotations

import fcntl
import os
import socket
import stat

from wherry.errors import FailedPrecondition

_LOCK_FILE = "wherryd.pid"

#: Seconds for a socket to take or refuse a connection: a daemon that is stopped (SIGSTOP) does neither.
_PROBE_TIMEOUT = 2.0

#: Connections that wait to be accepted.
_BACKLOG = 512


def lock(directory: str, what: str) -> int:
    """Make a directory and lock it for this process; return the lock's descriptor, which holds it.

    `what` is the flag that names the directory. FailedPrecondition, naming the other's pid, if another daemon has it.
    """
    os.makedirs(directory, mode=0o711, exist_ok=True)
    # Close-on-exec: a shim that outlives the daemon must not keep the lock.
    fd = os.open(os.path.join(directory, _LOCK_FILE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        raise FailedPrecondition(
            f"{what} {directory} is in use by the wherryd with pid {owner}: stop it, or give this one another --{what}"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def make_way(path: str) -> None:
    """Make the directory of a socket, and remove the socket a dead daemon left there.

    FailedPrecondition if somebody answers on it, or something else is in its place.
    """
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    # Connecting to a regular file is refused just as to a dead socket.
    if not stat.S_ISSOCK(mode):
        raise FailedPrecondition(f"{path} is no socket: remove it, or give this daemon another --address")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except (TimeoutError, BlockingIOError):
            pass  # somebody listens, and does not accept
        except OSError as error:
            raise FailedPrecondition(f"socket {path}: {(error.strerror or '').lower()}: remove what is there") from None
    raise FailedPrecondition(
        f"socket {path} answers: a daemon is running there; stop it, or give this one another --address"
    )


def listen(path: str) -> socket.socket:
    """Bind a listening socket at a path for this user and group: 0660."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # There must be no moment in which others could connect.
        mask = os.umask(0o117)
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock

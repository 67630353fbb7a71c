"""Processes: prctl(2), pidfds, peers of unix sockets, start times."""

from __future__ import annotations

import _socket
import os
from struct import Struct

from wherry.linux import foreign
from wherry.linux.libc import check, libc

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_UCRED = Struct("3i")


def _prctl(option: int, argument: int | bytes) -> None:
    value = foreign.c_char_p(argument) if isinstance(argument, bytes) else foreign.c_ulong(argument)
    check(libc.prctl(option, value, 0, 0, 0))


def become_subreaper() -> None:
    """Make orphaned descendants this process's children instead of init's (PR_SET_CHILD_SUBREAPER, prctl(2))."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Set the name that ps -o comm shows, cut at 15 bytes (PR_SET_NAME, prctl(2))."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def die_with_parent(signal: int) -> None:
    """Have the kernel send this process a signal when its parent thread ends (PR_SET_PDEATHSIG, prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def set_dumpable(on: bool) -> None:
    """Allow or forbid others to trace this process and to look into its memory and descriptors (PR_SET_DUMPABLE)."""
    _prctl(_PR_SET_DUMPABLE, int(on))


def set_no_new_privileges() -> None:
    """Forbid this process, for good, to gain anything by execve(2) (PR_SET_NO_NEW_PRIVS, prctl(2))."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_title(title: str) -> None:
    """Put a title where ps reads the command line, as far as there is room: the arguments' memory is overwritten.

    proc(5), /proc/[pid]/stat, fields arg_start and arg_end. A process that means to use this is started with an
    argument long enough.
    """
    start, end = _argument_area()
    data = title.encode().replace(b" ", b"\0")[: end - start - 1]
    foreign.memmove(start, data.ljust(end - start, b"\0"), end - start)


def _argument_area() -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[45]), int(fields[46])


def start_time(pid: int) -> int:
    """Return when a process started, in clock ticks since boot: with the pid it names a process for ever.

    ProcessLookupError if there is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except FileNotFoundError:
        raise ProcessLookupError(3, f"no process {pid}") from None


def peer(sock: _socket.socket) -> tuple[int, int, int]:
    """Return the pid, uid and gid of a connected unix socket's other end (SO_PEERCRED, unix(7))."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED.size))
    return pid, uid, gid


def adjust_oom_score(pid: int, score: int) -> None:
    """Set a process's oom_score_adj, at most 1000. OSError (EACCES) if it is below what this process may set."""
    with open(f"/proc/{pid}/oom_score_adj", "w") as file:
        file.write(str(min(1000, score)))


def oom_score() -> int:
    """Return this process's oom_score_adj."""
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def exists(pid: int) -> bool:
    """Tell whether there is a process of this pid, zombies included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def open_by_argument(argument: str) -> list[int]:
    """Return pidfds of the processes that were started with an argument; it must be one that no other program has."""
    wanted = os.fsencode(argument)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or not _has_argument(name, wanted):
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        # The pid may have become another's between the look and the descriptor.
        if _has_argument(name, wanted):
            found.append(pidfd)
        else:
            os.close(pidfd)
    return found


def _has_argument(pid: str, argument: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return argument in file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_all(pidfds: list[int], timeout: float) -> None:
    """Wait until processes have ended, or some seconds have passed; the descriptors are closed. pidfd_open(2)."""
    import select
    import time

    deadline = time.monotonic() + timeout
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    waiting = set(pidfds)
    while waiting and (remaining := deadline - time.monotonic()) > 0:
        for pidfd, _event in poll.poll(remaining * 1000):
            poll.unregister(pidfd)
            waiting.discard(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)

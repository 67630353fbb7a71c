"""News that the kernel's OOM killer was in a cgroup."""

from __future__ import annotations

import ctypes
import os
import select

from wherry.linux.libc import check, libc
from wherry.runc.cgroups import control_files

_EFD_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000


class OomNotice:
    """A descriptor to poll, and what to make of it when it is ready. Closed by `close`."""

    __slots__ = ("_directory", "_fd", "_kills", "events")

    def __init__(self, directory: str, fd: int, events: int) -> None:
        self._directory = directory
        self._fd = fd
        #: What poll(2) is to wait for: POLLIN for an eventfd of cgroup v1, POLLPRI for memory.events of v2.
        self.events = events
        self._kills = _kills(fd) if events == select.POLLPRI else 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def read(self) -> bool | None:
        """Tell, when the descriptor was ready, whether there was an OOM; None if the cgroup is gone, for good."""
        if self.events == select.POLLIN:
            try:
                os.read(self._fd, 8)
            except BlockingIOError:
                return False
            # It is told of the cgroup's removal in the same way.
            return True if os.path.exists(f"{self._directory}/cgroup.event_control") else None
        try:
            kills = _kills(self._fd)
        except OSError:
            return None
        before, self._kills = self._kills, kills
        return kills > before

    def close(self) -> None:
        """Watch no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def notice_v1(directory: str) -> OomNotice:
    """Watch a cgroup of v1's memory controller (admin-guide/cgroup-v1/memory.rst, "OOM Control"). OSError."""
    fd = check(libc.eventfd(ctypes.c_uint(0), ctypes.c_int(_EFD_CLOEXEC_NONBLOCK)))
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            control_files.write(directory, "cgroup.event_control", f"{fd} {control}")
        finally:
            os.close(control)
        return OomNotice(directory, fd, select.POLLIN)
    except BaseException:
        os.close(fd)
        raise


def notice_v2(directory: str) -> OomNotice:
    """Watch a cgroup of v2 (admin-guide/cgroup-v2.rst, "memory.events"): each change raises POLLPRI. OSError."""
    fd = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return OomNotice(directory, fd, select.POLLPRI)
    except BaseException:
        os.close(fd)
        raise


def _kills(fd: int) -> int:
    for line in os.pread(fd, 4096, 0).decode().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0

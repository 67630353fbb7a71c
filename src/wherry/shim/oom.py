"""News that the kernel's OOM killer was in a container's memory cgroup."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
from collections.abc import Callable, Mapping

from wherry.linux.libc import check, libc

_EFD_CLOEXEC_NONBLOCK = 0o2000000 | 0o4000


class OomWatcher:
    """Calls back after every OOM in a cgroup: by an eventfd on cgroup v1, by memory.events on v2.

    A cgroup that is gone, or a kernel without the memory controller, has no news.
    """

    def __init__(self, cgroups: Mapping[str, str], callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._poll: select.epoll | None = None
        self._kills = 0
        try:
            if "memory" in cgroups:
                self._watch_v1(cgroups["memory"])
            elif "" in cgroups:
                self._watch_v2(os.path.join(cgroups[""], "memory.events"))
        except OSError:
            self.close()

    def _watch_v1(self, path: str) -> None:
        """cgroup v1: an eventfd registered in cgroup.event_control (Documentation/admin-guide/cgroup-v1/memory.rst)."""
        self._fd = check(libc.eventfd(ctypes.c_uint(0), ctypes.c_int(_EFD_CLOEXEC_NONBLOCK)))
        control = os.open(os.path.join(path, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with open(os.path.join(path, "cgroup.event_control"), "w") as file:
                file.write(f"{self._fd} {control}")
        finally:
            os.close(control)
        self._loop.add_reader(self._fd, self._read_v1, os.path.join(path, "memory.oom_control"))

    def _read_v1(self, control: str) -> None:
        os.read(self._fd, 8)
        # The eventfd fires as well when the cgroup is removed.
        if os.path.exists(control):
            self._callback()
        else:
            self.close()

    def _watch_v2(self, path: str) -> None:
        """cgroup v2: memory.events raises POLLPRI at every change; inotify instances would run out."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._kills = self._oom_kills()
        self._poll = select.epoll()
        self._poll.register(self._fd, select.EPOLLPRI)
        self._loop.add_reader(self._poll.fileno(), self._read_v2)

    def _read_v2(self) -> None:
        assert self._poll is not None
        self._poll.poll(0)
        try:
            kills = self._oom_kills()
        except OSError:
            self.close()
            return
        if kills > self._kills:
            self._callback()
        self._kills = kills

    def _oom_kills(self) -> int:
        for line in os.pread(self._fd, 4096, 0).decode().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def close(self) -> None:
        """Watch no more."""
        if self._poll is not None:
            self._loop.remove_reader(self._poll.fileno())
            self._poll.close()
            self._poll = None
        elif self._fd >= 0:
            self._loop.remove_reader(self._fd)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

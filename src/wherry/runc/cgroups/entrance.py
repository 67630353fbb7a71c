"""How a process gets into its cgroups without being moved there.

A process that another one moves, by cgroup.procs, makes the kernel wait until no process can be in the middle of a fork
or an exit: 6 ms on an idle machine (cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c). One that is born in its cgroup
(v2: CLONE_INTO_CGROUP, clone3(2)), and a thread that moves nobody but itself (v1: "0" written to `tasks`), do not.
"""

from __future__ import annotations

import fcntl
import os

from wherry.linux import namespaces as ns

#: The numbers below this are left to what a process opens that may have few: RLIMIT_NOFILE is about numbers. The kernel
#: has a larger table for those from 64 on.
_ABOVE = 32


class Entrance:
    """The open doors of a container's cgroups: to be closed."""

    __slots__ = ("directory", "is_usable", "tasks")

    def __init__(self) -> None:
        #: The directory of cgroup v2, -1 without one.
        self.directory = -1
        #: The `tasks` files of v1's hierarchies.
        self.tasks: list[int] = []
        #: False once the kernel has refused it: then the process has to be moved, and that says why it can't be.
        self.is_usable = True

    def open(self, directory: str) -> None:
        """Add a cgroup of v2. OSError."""
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_tasks(self, directory: str) -> None:
        """Add a cgroup of v1. OSError."""
        fd = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self.tasks.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE))
        finally:
            os.close(fd)

    def clone(self, flags: int) -> tuple[int, int]:
        """Make a child, as `linux.namespaces.clone`, which is in the cgroup of v2 from its first moment. OSError."""
        if self.directory >= 0:
            try:
                return ns.clone(flags, cgroup=self.directory)
            except OSError:
                self.is_usable = False  # if it was not for the cgroup, the next try fails as well
        return ns.clone(flags)

    def enter(self) -> bool:
        """Bring this process, which has one thread, into the cgroups of v1. False if it has to be moved."""
        if self.is_usable:
            try:
                for fd in self.tasks:
                    os.write(fd, b"0")
            except OSError:
                self.is_usable = False
        return self.is_usable

    def close_tasks(self) -> None:
        for fd in self.tasks:
            os.close(fd)
        self.tasks.clear()

    def close(self) -> None:
        self.close_tasks()
        if self.directory >= 0:
            os.close(self.directory)
            self.directory = -1

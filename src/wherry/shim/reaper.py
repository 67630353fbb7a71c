"""The one place where a shim waits for children: its own, and the orphans that it inherits as a subreaper.

Anything else that waited (subprocess, asyncio's watchers) would race this and take a failed runc for a success.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from wherry.errors import Unknown

#: What Python ignores and a program started by us must not inherit as ignored, SIGCHLD and the rest with it.
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP]

#: Descriptors of programs are below this; those of ours are moved here first, out of the way.
_ABOVE_STDIO = 64

#: runc takes this as an order to tell systemd of its container; it was meant for whoever started the daemon.
_NOTIFY_SOCKET = "NOTIFY_SOCKET"


class Exit:
    """How a child ended: `status` as a shell has it (128 + n for signal n), `at` in nanoseconds since the epoch."""

    __slots__ = ("at", "status")

    def __init__(self, status: int, at: int) -> None:
        self.status = status
        self.at = at


class Reaper:
    """Starts children and collects the exit of every one.

    A child may end before anybody has asked for its exit. Such an exit is kept for a child that `spawn` started, and
    for any child within `adopting`; the others are orphans of containers, which nobody will ever ask for.
    """

    #: Whether this process may copy itself: it has one thread.
    may_fork = True

    def __init__(self) -> None:
        self._watchers: dict[int, Callable[[Exit], None]] = {}
        self._early: dict[int, Exit] = {}
        self._spawned: set[int] = set()
        self._adopting = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def close(self) -> None:
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def reap(self) -> None:
        """Collect every child that has ended."""
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended_with(pid, raw)

    def _ended_with(self, pid: int, raw: int) -> None:
        """Tell who watches a child of its end; `raw` is as waitpid(2) has it."""
        status = os.WEXITSTATUS(raw) if os.WIFEXITED(raw) else 128 + os.WTERMSIG(raw)
        ended = Exit(status, time.time_ns())
        watcher = self._watchers.pop(pid, None)
        if watcher is not None:
            watcher(ended)
        elif self._adopting or pid in self._spawned:
            self._early[pid] = ended

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """Keep the exits of orphans within this: one may be of the process that a runtime is about to hand over."""
        self._adopting += 1
        try:
            yield
        finally:
            self._adopting -= 1
            if not self._adopting:
                self._early = {pid: ended for pid, ended in self._early.items() if pid in self._spawned}

    def watch(self, pid: int, callback: Callable[[Exit], None]) -> None:
        """Call back once with the exit of a child; at once if it has been collected already.

        Unknown if this is no child of ours: then a pid file told of some other process.
        """
        early = self._early.pop(pid, None)
        self._spawned.discard(pid)
        if _is_child(pid):
            # An early exit would be that of an earlier process of the same pid.
            self._watchers[pid] = callback
        elif early is not None:
            callback(early)
        else:
            raise Unknown(f"process {pid} is no child of the shim")

    async def wait(self, pid: int) -> int:
        """Return a child's exit status when it has ended."""
        future: asyncio.Future[int] = self._loop.create_future()

        def ended(exit_: Exit) -> None:
            if not future.done():
                future.set_result(exit_.status)

        self.watch(pid, ended)
        return await future

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a child that is watched or was spawned; nothing happens if it has been collected.

        Until then its pid is nobody else's.
        """
        if pid in self._watchers or (pid in self._spawned and pid not in self._early):
            os.kill(pid, number)

    def spawn(
        self, arguments: Sequence[str], descriptors: Mapping[int, int], environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program, found in PATH, and return its pid: to be watched or waited for. OSError if that fails.

        `descriptors` maps the program's descriptors to this process's; those of 0, 1 and 2 not named are /dev/null,
        and no other is passed on. `environment` is this process's own unless given.
        """
        if environment is None:
            environment = {name: value for name, value in os.environ.items() if name != _NOTIFY_SOCKET}
        lifted: dict[int, int] = {}
        try:
            # Sources are first moved out of the way of targets, so that no dup2 overwrites one that is still needed.
            for target, source in descriptors.items():
                lifted[target] = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
            actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_OPEN, target, "/dev/null", os.O_RDWR, 0) for target in (0, 1, 2) if target not in lifted
            ]
            actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in lifted.items()]
            pid = os.posix_spawnp(
                arguments[0],
                list(arguments),
                dict(environment),
                file_actions=actions,
                setsigmask=[],
                setsigdef=_DEFAULT_SIGNALS,
            )
        finally:
            for source in lifted.values():
                os.close(source)
        self._early.pop(pid, None)  # of an orphan that had this pid before
        self._spawned.add(pid)
        return pid

    def fork(self, work: Callable[[], object]) -> int:
        """Do something in a copy of this process and return its pid: to be watched or waited for. OSError.

        The copy's loop never runs; it ends with status 0, or 1 if the work raised.
        """
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.set_wakeup_fd(-1)
                work()
                status = 0
            finally:
                os._exit(status)
        self._early.pop(pid, None)  # of an orphan that had this pid before
        self._spawned.add(pid)
        return pid


class SharingReaper(Reaper):
    """A reaper for a process that has other children as well, which somebody else waits for.

    It collects at once what was spawned or is watched. Others that have ended are left to whoever made them; those that
    are still there at the second look are orphans of containers.
    """

    may_fork = False

    #: Seconds between two looks. Who made a child waits for it, and takes much less.
    _LOOK = 5.0

    def __init__(self) -> None:
        self._ended: set[int] = set()
        self._looking: asyncio.TimerHandle | None = None
        super().__init__()

    def close(self) -> None:
        super().close()
        if self._looking is not None:
            self._looking.cancel()

    def reap(self) -> None:
        for pid in (*self._watchers, *self._spawned):
            if pid not in self._early:
                self._collect(pid)
        if self._looking is None:
            self._looking = self._loop.call_later(self._LOOK, self._look)

    def watch(self, pid: int, callback: Callable[[Exit], None]) -> None:
        super().watch(pid, callback)
        # Its end may have been told before anybody knew that it was ours.
        self._loop.call_soon(self.reap)

    def _look(self) -> None:
        self._looking = None
        before, self._ended = self._ended, set(_ended_children()) - self._watchers.keys() - self._spawned
        if not self._adopting:  # else one may be the process that is about to be handed over
            for pid in self._ended & before:
                self._collect(pid)
                self._ended.discard(pid)
        if self._ended:
            self._looking = self._loop.call_later(self._LOOK, self._look)

    def _collect(self, pid: int) -> None:
        try:
            found, raw = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return
        if found:
            self._ended_with(pid, raw)


def _ended_children() -> Iterator[int]:
    """Yield this process's children that have ended and that nobody has waited for: /proc/[pid]/task/[tid]/children."""
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                children = file.read().split()
        except FileNotFoundError:
            continue  # the thread has ended
        for child in map(int, children):
            try:
                with open(f"/proc/{child}/stat") as file:
                    if file.read().rpartition(")")[2].split()[0] == "Z":
                        yield child
            except FileNotFoundError:
                continue  # collected meanwhile


def _is_child(pid: int) -> bool:
    """Tell whether a process is our child and not collected: while it is, its pid is nobody else's (waitid(2))."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True

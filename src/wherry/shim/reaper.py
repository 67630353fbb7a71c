"""The one place where a shim waits for children: its own, and the orphans that it inherits as a subreaper.

Anything else that waited (subprocess, asyncio's watchers) would race this and take a failed runc for a success.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

#: Statuses of children that nobody has asked for yet: a runtime's exit may come before its pid file is read. Older ones
#: are orphans of containers that nobody will ever ask for.
_MAX_UNCLAIMED = 1024

#: What Python ignores and a program started by us must not inherit as ignored, SIGCHLD and the rest with it.
_DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP]


class Exit:
    """How a child ended: `status` as a shell has it (128 + n for signal n), `at` in nanoseconds since the epoch."""

    __slots__ = ("at", "status")

    def __init__(self, status: int, at: int) -> None:
        self.status = status
        self.at = at


class Reaper:
    """Starts children and collects the exit of every one."""

    def __init__(self) -> None:
        self._watchers: dict[int, Callable[[Exit], None]] = {}
        self._unclaimed: OrderedDict[int, Exit] = OrderedDict()
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
            status = os.WEXITSTATUS(raw) if os.WIFEXITED(raw) else 128 + os.WTERMSIG(raw)
            ended = Exit(status, time.time_ns())
            watcher = self._watchers.pop(pid, None)
            if watcher is not None:
                watcher(ended)
                continue
            self._unclaimed.pop(pid, None)
            self._unclaimed[pid] = ended
            if len(self._unclaimed) > _MAX_UNCLAIMED:
                self._unclaimed.popitem(last=False)

    def watch(self, pid: int, callback: Callable[[Exit], None], since: int = 0) -> None:
        """Call back once with the exit of a child: at once if it was reaped after `since` (nanoseconds) already."""
        ended = self._unclaimed.pop(pid, None)
        if ended is not None and ended.at >= since:
            callback(ended)
        else:
            self._watchers[pid] = callback

    async def wait(self, pid: int) -> int:
        """Return a child's exit status when it has ended."""
        future: asyncio.Future[Exit] = self._loop.create_future()

        def ended(exit_: Exit) -> None:
            if not future.done():
                future.set_result(exit_)

        self.watch(pid, ended)
        return (await future).status

    def spawn(
        self, arguments: Sequence[str], descriptors: Mapping[int, int], environment: Mapping[str, str] | None = None
    ) -> int:
        """Start a program, found in PATH, and return its pid. OSError if that fails.

        `descriptors` maps the program's descriptors to this process's; those of 0, 1 and 2 not named are /dev/null,
        and no other is passed on.
        """
        # Sources are first moved out of the way of targets, so that no dup2 overwrites one that is still needed.
        lifted = {target: _lift(source) for target, source in descriptors.items()}
        try:
            actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_OPEN, target, "/dev/null", os.O_RDWR, 0) for target in (0, 1, 2) if target not in lifted
            ]
            actions += [(os.POSIX_SPAWN_DUP2, source, target) for target, source in lifted.items()]
            return os.posix_spawnp(
                arguments[0],
                list(arguments),
                dict(os.environ if environment is None else environment),
                file_actions=actions,
                setsigmask=[],
                setsigdef=_DEFAULT_SIGNALS,
            )
        finally:
            for source in lifted.values():
                os.close(source)


def _lift(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64)

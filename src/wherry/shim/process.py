"""The processes of a container: what init and execs have in common."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

from wherry.api.types.task import task_pb2
from wherry.errors import Error, Unknown
from wherry.shim import console
from wherry.shim.reaper import Exit, Reaper
from wherry.shim.runtime import Runtime
from wherry.shim.stdio import Stdio, Streams

CREATED = task_pb2.CREATED
RUNNING = task_pb2.RUNNING
STOPPED = task_pb2.STOPPED
PAUSED = task_pb2.PAUSED
PAUSING = task_pb2.PAUSING

#: How refusals call the states.
STATE_NAMES: Mapping[int, str] = {
    CREATED: "created",
    RUNNING: "running",
    STOPPED: "stopped",
    PAUSED: "paused",
    PAUSING: "pausing",
}


class Process:
    """A process that is, was or will be: its state, its streams and its exit."""

    def __init__(self, id: str, stdio: Stdio, runtime: Runtime, reaper: Reaper) -> None:
        self.id = id
        self.stdio = stdio
        self.runtime = runtime
        self.reaper = reaper
        self.status = CREATED
        self.pid = 0
        self.exit_status = 0
        #: When it ended, in nanoseconds since the epoch; None while it has not.
        self.exited_at: int | None = None
        self.streams = Streams(stdio)
        #: A terminal's master.
        self.master: int | None = None
        #: Set when it has ended, or can never start.
        self.finished = asyncio.Event()
        #: Held back until the start was announced, so that a short process's exit comes after it.
        self._held_exit: Exit | None = None
        self._holding = False
        self._on_exit: Callable[[Process], None] | None = None

    def watch_exit(self, since: int, on_exit: Callable[[Process], None]) -> None:
        """Call back when the process has ended; `since` is a time before it was started."""
        self._on_exit = on_exit
        self.reaper.watch(self.pid, self._ended, since)

    def hold_exit(self) -> None:
        """Keep back the news of an exit until `release_exit`."""
        self._holding = True

    def release_exit(self) -> None:
        self._holding = False
        if self._held_exit is not None:
            self._ended(self._held_exit)

    def _ended(self, ended: Exit) -> None:
        if self._holding:
            self._held_exit = ended
            return
        self.status = STOPPED
        self.exit_status = ended.status
        self.exited_at = ended.at
        self.finished.set()
        if self._on_exit is not None:
            self._on_exit(self)

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; nothing happens without one."""
        if self.master is not None:
            console.resize(self.master, width, height)

    def close(self) -> None:
        """Close streams and terminal."""
        self.streams.close()
        if self.master is not None:
            os.close(self.master)
            self.master = None

    async def connect_terminal(self, socket: console.ConsoleSocket) -> None:
        """Take the terminal that the runtime sent and connect it to the FIFOs."""
        self.master = socket.receive_master()
        os.set_blocking(self.master, False)
        await self.streams.connect_terminal(self.master)

    def refuse(self, verb: str) -> Error:
        """Return the error of an operation that the state does not allow, in containerd's words."""
        return Unknown(f"cannot {verb} a {STATE_NAMES[self.status]} process")


def read_pid(path: str) -> int:
    """Return the pid in a runtime's pid file. Unknown if there is none."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError) as error:
        raise Unknown(f"failed to retrieve OCI runtime pid: {error}") from None

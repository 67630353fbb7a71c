"""The processes of a container: what init and execs have in common."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from wherry.errors import Unknown
from wherry.shim import console
from wherry.shim.reaper import Exit, Reaper
from wherry.shim.runtime import Runtime
from wherry.shim.states import State
from wherry.shim.stdio import Stdio, Streams


class Process:
    """A process that is, was or will be: its state, its streams and its exit."""

    def __init__(
        self,
        id: str,
        state: State,
        stdio: Stdio,
        streams: Streams,
        runtime: Runtime,
        reaper: Reaper,
        on_exit: Callable[[Process, Exit], None],
    ) -> None:
        """`on_exit` is called when the process was collected; `end` is then for the callee to call."""
        self.id = id
        self.state = state
        self.stdio = stdio
        self.streams = streams
        self.runtime = runtime
        self.reaper = reaper
        #: 0 before its start.
        self.pid = 0
        self.exit_status = 0
        #: When it ended, in nanoseconds since the epoch; None while it has not.
        self.exited_at: int | None = None
        #: Set when it has ended, or can never start.
        self.finished = asyncio.Event()
        #: While its start is under way and not announced, its exit is not either.
        self.starting = False
        #: Whether the kernel still keeps its pid for it: it runs, or is a zombie.
        self.alive = False
        self._on_exit = on_exit
        self._master: int | None = None

    def adopt(self, pid_file: str) -> None:
        """Take the process of a runtime's pid file for this one. Unknown if there is none, or it is not our child."""
        pid = read_pid(pid_file)
        self.pid = pid
        self.alive = True
        try:
            self.reaper.watch(pid, self._collected)
        except Unknown:
            self.pid = 0
            self.alive = False
            raise

    def _collected(self, ended: Exit) -> None:
        self.alive = False
        self._on_exit(self, ended)

    def end(self, ended: Exit, state: State) -> None:
        """Make the exit known to all who wait for it."""
        self.state = state
        self.exit_status = ended.status
        self.exited_at = ended.at
        self.finished.set()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size; nothing happens without one."""
        self.state.require("resize")
        if self._master is not None:
            console.resize(self._master, width, height)

    async def connect_terminal(self, socket: console.ConsoleSocket) -> None:
        """Take the terminal that the runtime sent and connect it to what the client named."""
        self._master = socket.receive_master()
        os.set_blocking(self._master, False)
        await self.streams.connect_terminal(self._master, self._close_master)

    async def finish(self) -> None:
        """Let the output go its way, then close streams and terminal."""
        await self.streams.finish()
        self.close()

    def close(self) -> None:
        """Close streams and terminal."""
        self.streams.close()
        self._close_master()

    def _close_master(self) -> None:
        if self._master is not None:
            os.close(self._master)
            self._master = None


def read_pid(path: str) -> int:
    """Return the pid in a runtime's pid file. Unknown if there is none."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError) as error:
        raise Unknown(f"failed to retrieve OCI runtime container pid: {error}") from None

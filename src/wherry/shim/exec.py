"""Execs: further processes in a running container."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from wherry.errors import Error, FailedPrecondition, NotFound, Unknown
from wherry.shim.console import ConsoleSocket
from wherry.shim.process import CREATED, RUNNING, STOPPED, Process, read_pid
from wherry.shim.reaper import Reaper
from wherry.shim.runtime import Runtime
from wherry.shim.stdio import Stdio


class Exec(Process):
    """An exec: registered with its OCI process document, launched by start."""

    def __init__(
        self,
        id: str,
        container: str,
        bundle: str,
        spec: bytes,
        stdio: Stdio,
        runtime: Runtime,
        reaper: Reaper,
        io_owner: tuple[int, int],
    ) -> None:
        super().__init__(id, stdio, runtime, reaper)
        self._container = container
        self._bundle = bundle
        self._spec = spec
        self._io_owner = io_owner
        self._failed = False

    async def start(self, environment: dict[str, str], on_exit: Callable[[Process], None]) -> None:
        """Launch it. After a failure it can only be deleted; everything it had opened is closed."""
        if self._failed or self.status != CREATED:
            state = "failed" if self._failed else "running" if self.status == RUNNING else "stopped"
            raise Unknown(f"cannot start a {state} process")
        with ExitStack() as undo:
            undo.callback(self._fail)
            await self._launch(environment, on_exit)
            undo.pop_all()

    async def _launch(self, environment: dict[str, str], on_exit: Callable[[Process], None]) -> None:
        pid_file = os.path.join(self._bundle, f"{self.id}.pid")
        process_file = os.path.join(self._bundle, f".{self.id}.process.json")
        began = time.time_ns()
        with ExitStack() as files:
            with open(process_file, "wb") as file:
                file.write(self._spec)
            files.callback(os.unlink, process_file)
            with ConsoleSocket() if self.stdio.terminal else nullcontext() as console:
                if console is None:
                    await self.streams.open(*self._io_owner, self.reaper, environment)
                self.hold_exit()
                try:
                    await self.runtime.exec(
                        self._container,
                        process_file,
                        pid_file,
                        self.streams.descriptors,
                        console.path if console is not None else "",
                    )
                    if console is not None:
                        await self.connect_terminal(console)
                except Error:
                    self._kill_half_started(pid_file, began)
                    raise
        self.streams.started()
        self.pid = read_pid(pid_file)
        self.status = RUNNING
        self.watch_exit(began, on_exit)

    def _kill_half_started(self, pid_file: str, began: int) -> None:
        """End a process whose terminal never reached us; the runtime has not told of any other."""
        try:
            pid = read_pid(pid_file)
        except Unknown:
            return
        # It is our child since the runtime has ended, so the pid is its own until the reaper takes it.
        self.reaper.watch(pid, lambda _exit: None, began)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _fail(self) -> None:
        self._failed = True
        self.finished.set()
        self.close()

    def kill(self, number: int) -> None:
        """Send it a signal. FailedPrecondition before its start, NotFound after its end."""
        if self.status == CREATED:
            raise FailedPrecondition("process not created")
        if self.status == STOPPED:
            raise NotFound("process already finished")
        # Not reaped yet, so the pid is still the process's own.
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            raise NotFound("process already finished") from None

    async def delete(self) -> None:
        """Let the output drain and forget the process's files. Unknown while it runs."""
        if self.status == RUNNING:
            raise self.refuse("delete")
        if self.status == STOPPED:
            await self.streams.drain()
        self.close()
        try:
            os.unlink(os.path.join(self._bundle, f"{self.id}.pid"))
        except FileNotFoundError:
            pass  # it never started

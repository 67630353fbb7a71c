"""Execs: further processes in a running container."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, nullcontext

from wherry.errors import FailedPrecondition, NotFound, Unknown
from wherry.shim.console import ConsoleSocket
from wherry.shim.process import Process, read_pid
from wherry.shim.reaper import Exit, Reaper
from wherry.shim.runtime import Launch, Runtime
from wherry.shim.states import DELETED, EXEC_CREATED, EXEC_FAILED, EXEC_RUNNING
from wherry.shim.stdio import Stdio, Streams


class Exec(Process):
    """An exec: registered with its OCI process document, launched by start."""

    def __init__(
        self,
        id: str,
        container: str,
        bundle: str,
        document: bytes,
        stdio: Stdio,
        streams: Streams,
        runtime: Runtime,
        reaper: Reaper,
        on_exit: Callable[[Process, Exit], None],
    ) -> None:
        """Unknown for a document that is no JSON object."""
        super().__init__(id, EXEC_CREATED, stdio, streams, runtime, reaper, on_exit)
        #: Held by its start and its delete.
        self.lock = asyncio.Lock()
        self._container = container
        self._bundle = bundle
        # The name that others know; but init.pid is the container's, and no id begins with a dot.
        self._pid_file = os.path.join(bundle, ".init.pid" if id == "init" else f"{id}.pid")
        self._document = _with_terminal(document, stdio.terminal)

    async def start(self) -> None:
        """Launch it. After a failure it can only be deleted; everything it had opened is closed."""
        with ExitStack() as undo:
            undo.callback(self._fail)
            await self._launch()
            self.state = EXEC_RUNNING
            undo.pop_all()

    async def _launch(self) -> None:
        with ConsoleSocket(self._bundle, self.id) if self.stdio.terminal else nullcontext() as socket:
            if socket is None:
                await self.streams.open()
            launch = Launch(self._pid_file, self.streams.descriptors, socket.path if socket else "")
            self.starting = True
            with self.reaper.adopting():
                await self.runtime.exec(self._container, self._document, launch)
                try:
                    if socket is not None:
                        await self.connect_terminal(socket)
                    self.streams.started()
                except BaseException:
                    self._kill_half_started()
                    raise
                self.adopt(self._pid_file)

    def _kill_half_started(self) -> None:
        """End a process whose terminal never reached us."""
        try:
            pid = read_pid(self._pid_file)
            self.reaper.watch(pid, lambda _exit: None)
        except Unknown:
            return
        self.reaper.kill(pid, signal.SIGKILL)

    def _fail(self) -> None:
        self.state = EXEC_FAILED
        self.starting = False
        self.finished.set()
        self.close()

    def kill(self, number: int) -> None:
        """Send it a signal. FailedPrecondition before its start, NotFound after its end."""
        if not self.pid:
            raise FailedPrecondition("process not created")
        if not self.alive:
            raise NotFound("process already finished")
        try:
            # Collected by nobody but us, and not yet: the pid is its own, and the descriptor proves it.
            pidfd = os.pidfd_open(self.pid)
            try:
                signal.pidfd_send_signal(pidfd, number)
            finally:
                os.close(pidfd)
        except ProcessLookupError:
            raise NotFound("exec kill error: process already finished") from None
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise Unknown(f"exec kill error: unknown error after kill: {reason}") from None

    async def delete(self) -> None:
        """Let the output drain and forget the process's files."""
        await self.finish()
        _unlink(self._pid_file)
        self.state = DELETED
        self.finished.set()


def _with_terminal(document: bytes, terminal: bool) -> bytes:
    """Return a process document in which the request says whether there is a terminal."""
    try:
        process = json.loads(document)
    except ValueError as error:
        raise Unknown(f"process of the exec: {error}") from None
    if not isinstance(process, dict):
        raise Unknown("process of the exec: not a JSON object")
    if process.get("terminal", False) == terminal:
        return document
    return json.dumps({**process, "terminal": terminal}).encode()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return

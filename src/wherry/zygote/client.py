"""The daemon's side of the zygote."""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.errors import Unavailable, Unknown
from wherry.zygote.__main__ import MAX_REQUEST

log = logging.getLogger(__name__)

#: Room for the title of a child, which is written over the zygote's arguments.
_PADDING = "." * 1024

#: Seconds for the zygote to import its targets.
_START_TIMEOUT = 30.0


class Child:
    """A process that the zygote forked. The pidfd is the receiver's to close."""

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd


class Zygote:
    """A zygote that is replaced when it dies. One request at a time: a fork takes some milliseconds."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = list(targets)
        self._lock = asyncio.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    async def start(cls, targets: Sequence[str]) -> Zygote:
        """Start a zygote that has the targets ("module:function") imported. Unavailable if it cannot import them."""
        zygote = cls(targets)
        await zygote._start()
        return zygote

    @property
    def pid(self) -> int:
        """The pid of the present zygote."""
        assert self._process is not None, "closed"
        return self._process.pid

    async def fork(
        self, target: str, arguments: Mapping[str, Any], fds: Sequence[int] = (), *, title: str = ""
    ) -> Child:
        """Run a target in a new process: `target(arguments, fds)`, the descriptors renumbered from 3.

        The process is init's child, in a session of its own, with /dev/null as stdio; `title` is what ps shows.
        Unknown if it could not be made; a dead zygote is replaced first.
        """
        request = json.dumps({"target": target, "arguments": dict(arguments), "title": title}).encode()
        if len(request) > MAX_REQUEST:
            raise Unknown(f"zygote: a request of {len(request)} bytes")
        async with self._lock:
            try:
                return await self._ask(request, fds)
            except (ConnectionError, EOFError) as error:
                log.warning("zygote died (%s): starting another", error or "end of file")
            await self._start()
            try:
                return await self._ask(request, fds)
            except (ConnectionError, EOFError) as error:
                raise Unavailable(f"zygote: {error or 'it dies whenever it is asked'}") from None

    async def close(self) -> None:
        """End the zygote; what it forked lives on."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process = self._process
            self._process = None
            await asyncio.to_thread(process.wait)

    async def _start(self) -> None:
        await self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "wherry.zygote", str(theirs.fileno()), _PADDING, *self._targets]
            # Not asyncio's: its watcher would wait for the process in a thread of its own.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        ours.setblocking(False)
        self._control = ours
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._receive()
        except (TimeoutError, ConnectionError, EOFError):
            self._process.kill()
            raise Unavailable(f"zygote: it did not start with the targets {', '.join(self._targets)}") from None

    async def _ask(self, request: bytes, fds: Sequence[int]) -> Child:
        if self._control is None:
            raise ConnectionError("closed")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._control.sendmsg([request], rights)
        answer, pidfds = await self._receive()
        if "error" in answer or len(pidfds) != 1:
            raise Unknown(f"zygote: {answer.get('error', 'no pidfd')}")
        return Child(answer["pid"], pidfds[0])

    async def _receive(self) -> tuple[dict[str, Any], list[int]]:
        control = self._control
        assert control is not None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[bytes, list[int]]] = loop.create_future()

        def readable() -> None:
            try:
                data, ancillary, _flags, _address = control.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(4))
            except BlockingIOError:
                return
            except OSError as error:
                if not future.done():
                    future.set_exception(error)
                return
            pidfds = array.array("i")
            for _level, _type, part in ancillary:
                pidfds.frombytes(part[: len(part) - len(part) % pidfds.itemsize])
            for fd in pidfds:
                os.set_inheritable(fd, False)
            if not future.done():
                future.set_result((data, list(pidfds)))

        loop.add_reader(control, readable)
        try:
            data, pidfds = await future
        finally:
            loop.remove_reader(control)
        if not data:
            raise EOFError
        return json.loads(data), pidfds

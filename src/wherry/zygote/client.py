"""The daemon's side of the zygote."""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from wherry.errors import Unavailable, Unknown
from wherry.linux import own_executable
from wherry.zygote.__main__ import MAX_REQUEST, MERGEABLE, PRIVATE

log = logging.getLogger(__name__)

#: Room for the title of a child, which is written over the zygote's arguments.
_PADDING = "." * 1024

#: Seconds for the zygote to import its targets.
_START_TIMEOUT = 30.0

#: Seconds for a fork, which takes milliseconds: a zygote that is stopped is replaced like a dead one.
_FORK_TIMEOUT = 10.0

#: Seconds for a zygote to end once its socket is closed.
_END_TIMEOUT = 2.0


class Child:
    """A process that the zygote forked. The pidfd is the receiver's to close."""

    __slots__ = ("pid", "pidfd")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd


class _Answer:
    """What the zygote says: a JSON object, and the descriptors that came with it."""

    def __init__(self, values: dict[str, Any], fds: list[int]) -> None:
        self.values = values
        self.fds = fds

    def discard(self) -> None:
        """End the child that nobody waits for any more."""
        for fd in self.fds:
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
            os.close(fd)


class _Control:
    """The socket to one zygote process. Answers come in the order of the requests, one each."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._sock = sock
        self._waiting: deque[asyncio.Future[_Answer]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def answer(self) -> asyncio.Future[_Answer]:
        """Return the next answer that nobody has asked for yet. ConnectionError if the zygote ends before it.

        A future that is cancelled takes its answer all the same, and the child in it is killed.
        """
        future: asyncio.Future[_Answer] = self._loop.create_future()
        if self._sock.fileno() < 0:
            future.set_exception(ConnectionError("closed"))
        else:
            self._waiting.append(future)
        return future

    def send(self, request: bytes, fds: Sequence[int]) -> asyncio.Future[_Answer]:
        """Send a request and return its answer. ConnectionError if nobody is there."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        if self._sock.fileno() < 0:
            raise ConnectionError("closed")
        self._sock.sendmsg([request], rights)
        return self.answer()

    def _readable(self) -> None:
        try:
            data, ancillary, _flags, _address = self._sock.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(4))
        except BlockingIOError:
            return
        except OSError as error:
            self.close(error.strerror or str(error))
            return
        fds = array.array("i")
        for _level, _type, part in ancillary:
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
        for fd in fds:
            os.set_inheritable(fd, False)
        if not data:
            self.close("it ended")
            return
        answer = _Answer(json.loads(data), list(fds))
        future = self._waiting.popleft()
        if future.done():
            answer.discard()
        else:
            future.set_result(answer)

    def close(self, reason: str = "closed") -> None:
        """Close the socket, at which the zygote ends."""
        if self._sock.fileno() < 0:
            return
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for future in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError(reason))
        self._waiting.clear()


class Zygote:
    """A zygote that is replaced when it dies. One request at a time: a fork takes some milliseconds."""

    def __init__(self, targets: Sequence[str], *, mergeable: bool = False) -> None:
        self._targets = list(targets)
        self._memory = MERGEABLE if mergeable else PRIVATE
        self._lock = asyncio.Lock()
        self._control: _Control | None = None

    @classmethod
    async def start(cls, targets: Sequence[str], *, mergeable: bool = False) -> Zygote:
        """Start a zygote that has the targets ("module:function") imported. Unavailable if it cannot import them.

        With `mergeable` the kernel's KSM, if it runs, may keep equal pages of the children once.
        """
        zygote = cls(targets, mergeable=mergeable)
        zygote._control = await zygote._start()
        return zygote

    @property
    def pid(self) -> int:
        """The pid of the present zygote."""
        assert self._control is not None, "closed"
        return self._control.process.pid

    async def fork(
        self, target: str, arguments: Mapping[str, Any], fds: Sequence[int] = (), *, title: str = ""
    ) -> Child:
        """Run a target in a new process: `target(arguments, fds)`, the descriptors renumbered from 3.

        The process is init's child, in a session of its own, with /dev/null as stdio; `title` is what ps shows. If the
        caller is cancelled, there is no such process, or it is killed.

        Unknown if it could not be made; Unavailable if the zygote died and its successor, asked once more, died too.
        """
        request = json.dumps({"target": target, "arguments": dict(arguments), "title": title}).encode()
        if len(request) > MAX_REQUEST:
            raise Unknown(f"zygote: a request of {len(request)} bytes")
        async with self._lock:
            if self._control is None:
                raise Unavailable("zygote: closed")
            try:
                return await _ask(self._control, request, fds)
            except (ConnectionError, TimeoutError) as error:
                log.warning("zygote died (%s): starting another", error or f"silent for {_FORK_TIMEOUT:.0f} s")
            # The dead one stays in its place until there is another: the next request tries again.
            await _end(self._control)
            self._control = await self._start()
            try:
                return await _ask(self._control, request, fds)
            except (ConnectionError, TimeoutError) as error:
                raise Unavailable(f"zygote: {error or 'silent'}") from None

    async def close(self) -> None:
        """End the zygote; what it forked lives on."""
        control, self._control = self._control, None
        if control is not None:
            await _end(control)

    async def _start(self) -> _Control:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            options = [str(theirs.fileno()), _PADDING, self._memory]
            command = [sys.executable, "-m", "wherry.zygote", *options, *self._targets]
            program = _program()
            try:
                # Not asyncio's: its watcher would wait for the process in a thread of its own.
                process = subprocess.Popen(  # noqa: ASYNC220
                    command,
                    executable=f"/proc/self/fd/{program}" if program >= 0 else None,
                    pass_fds=[theirs.fileno(), *([program] if program >= 0 else [])],
                    stdin=subprocess.DEVNULL,
                    env=own_executable.library_path(os.environ),
                )
            finally:
                if program >= 0:
                    os.close(program)
        ours.setblocking(False)
        control = _Control(ours, process)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await control.answer()
        except BaseException as error:
            process.kill()
            await _end(control)
            if isinstance(error, (TimeoutError, ConnectionError)):
                raise Unavailable(f"zygote: it did not start with the targets {', '.join(self._targets)}") from None
            raise
        return control


def _program() -> int:
    """Return the interpreter by a descriptor that no container can write to it by; -1 where there is no such way."""
    try:
        return own_executable.protected_file()
    except OSError as error:
        log.warning("the built-in OCI runtime will refuse to run: %s", error.strerror)
        return -1


async def _ask(control: _Control, request: bytes, fds: Sequence[int]) -> Child:
    async with asyncio.timeout(_FORK_TIMEOUT):
        answer = await control.send(request, fds)
    if "error" in answer.values or len(answer.fds) != 1:
        answer.discard()
        raise Unknown(f"zygote: {answer.values.get('error', 'no pidfd')}")
    return Child(answer.values["pid"], answer.fds[0])


async def _end(control: _Control) -> None:
    """Close a zygote's socket and wait for its end."""
    control.close()
    process = control.process
    pidfd = os.pidfd_open(process.pid) if process.poll() is None else -1
    if pidfd < 0:
        return
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pidfd, _finish, ended)
    try:
        async with asyncio.timeout(_END_TIMEOUT):
            await ended
    except TimeoutError:
        log.warning("zygote %d does not end: killing it", process.pid)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        # Nothing if it has ended, and it is waited for in any case: a moment.
        process.kill()
        process.wait()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

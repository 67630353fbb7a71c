"""The daemon's side of `wherry.images.worker`: starts one, hands it descriptors, waits for its answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from wherry.errors import Error, Internal, from_status
from wherry.images.following import COMPLETE, OFFSET_SIZE

#: The function that a zygote runs, as it is named to it.
TARGET = "wherry.images.worker:main"


class Child(Protocol):
    """A process that was started for us."""

    @property
    def pid(self) -> int: ...
    @property
    def pidfd(self) -> int:
        """Owned by whoever asked for the process."""


#: Starts a worker with arguments and descriptors, which it may close in this process when it returns.
Spawn = Callable[[dict[str, Any], Sequence[int]], Awaitable[Child]]


class _Subprocess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)


async def spawn_subprocess(arguments: dict[str, Any], fds: Sequence[int]) -> Child:
    """Start a worker as a program of its own, where there is no zygote to fork one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wherry.images.worker",
        json.dumps(arguments),
        json.dumps(list(fds)),
        pass_fds=fds,
        stdin=asyncio.subprocess.DEVNULL,
    )
    return _Subprocess(process)


def zygote_spawner(fork: Callable[..., Awaitable[Child]]) -> Spawn:
    """Return a Spawn that uses a zygote's `fork` method."""

    async def spawn(arguments: dict[str, Any], fds: Sequence[int]) -> Child:
        return await fork(TARGET, arguments, fds, title=f"wherry: layer {arguments['action']}")

    return spawn


async def run(spawn: Spawn, arguments: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
    """Run a worker to its end and return its answer.

    Raises the error that the worker reports, or Internal if it ended without a word. When the caller is cancelled the
    worker is killed; in every case it is gone afterwards.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        ours.setblocking(False)
        with theirs:
            starting = asyncio.ensure_future(spawn(arguments, [theirs.fileno(), *fds]))
            await _ended(starting)
            child = starting.result()
        answer = b""
        try:
            try:
                await asyncio.sleep(0)  # where a cancellation that came during the start is noticed
                answer = await _read_all(ours)
            finally:
                if not answer:
                    _kill(child.pidfd)
                # A killed worker may be in the kernel yet, writing: whoever cleans up after it must come second.
                await _gone(child.pidfd)
                if isinstance(child, _Subprocess):
                    await child.process.wait()
        finally:
            os.close(child.pidfd)
    if not answer:
        raise Internal(f"layer worker {child.pid} ended without an answer")
    result: dict[str, Any] = json.loads(answer)
    if "error" in result:
        raise from_status(result["code"], result["error"])
    return result


class Growing(Protocol):
    """A file that is being written: iterated over, up to which offset it can be read, until it is complete.

    What the iteration raises is why it will not be.
    """

    def fileno(self) -> int: ...
    def __aiter__(self) -> AsyncIterator[int]: ...


async def run_following(spawn: Spawn, arguments: dict[str, Any], source: Growing) -> dict[str, Any]:
    """Run a worker on a layer that is being written yet, as `run` does on one that is there.

    Raises what `run` does, and what ends the writing before it is complete.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        ours.setblocking(False)
        telling = asyncio.create_task(_tell(source, ours))
        try:
            return await run(spawn, {**arguments, "follow": True}, [source.fileno(), theirs.fileno()])
        except Error:
            # Without its layer's rest a worker can only say that there is none.
            if telling.done() and not telling.cancelled() and (reason := telling.exception()) is not None:
                raise reason from None
            raise
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)


async def _tell(source: Growing, sock: socket.socket) -> None:
    """Send how far a file can be read, and that it is complete; or neither of it any more, at which the reader ends."""
    loop = asyncio.get_running_loop()
    try:
        async for offset in source:
            await loop.sock_sendall(sock, offset.to_bytes(OFFSET_SIZE, "little"))
        await loop.sock_sendall(sock, COMPLETE.to_bytes(OFFSET_SIZE, "little"))
    finally:
        sock.shutdown(socket.SHUT_WR)


def copier(spawn: Spawn) -> Callable[[str, str], Awaitable[None]]:
    """Return a function that copies the contents of one directory to another, empty one, in a worker."""

    async def copy(source: str, target: str) -> None:
        await run(spawn, {"action": "copy", "source": source, "target": target})

    return copy


def settler(spawn: Spawn) -> Callable[[str, Sequence[str], str], Awaitable[None]]:
    """Return a function (upper, lowers, record) that does what a layer left pending, now that those below are known.

    `upper` is the directory that a layer was applied to without them, `lowers` are theirs, the nearest first, and
    `record` is the file pending.json (`wherry.images.pending.NAME`) in the directory that contains `upper`. The record
    is removed at the end; nothing happens without one. Raises kinds of wherry.errors: Unknown for a hard link whose
    file no lower layer has, ResourceExhausted for a full disk. Interrupted, it may be called again.
    """

    async def settle(upper: str, lowers: Sequence[str], record: str) -> None:
        await run(spawn, {"action": "settle", "upper": upper, "lowers": list(lowers), "record": record})

    return settle


async def _read_all(sock: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    pieces = []
    while piece := await loop.sock_recv(sock, 65536):
        pieces.append(piece)
    return b"".join(pieces)


def _kill(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has ended of its own accord


async def _gone(pidfd: int) -> None:
    """Wait until a process has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        loop.remove_reader(pidfd)
        ended.set_result(None)

    loop.add_reader(pidfd, finish)
    await _ended(ended)


async def _ended(future: asyncio.Future[Any]) -> None:
    """Wait until a future is done, whatever comes of it; a cancellation meanwhile is put off until then."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

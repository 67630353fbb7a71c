"""The streams of a daemon's Streaming service, which a Transfer refers to by their ids.

A stream carries messages either way, each in an Any. Bytes go as Data under the windows that their receiver grants
(containerd's core/transfer/streaming), the end of the sender's direction being their end. For event loops.
"""

from __future__ import annotations

import asyncio
import threading
import time
from binascii import b2a_base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from os import urandom
from queue import SimpleQueue

from wherry.api.services.streaming.v1 import streaming_pb2
from wherry.api.types.transfer import transfer_pb2
from wherry.api.typeurl import pack, unpack
from wherry.errors import Error, Internal, InvalidArgument, Unavailable
from wherry.rpc.channel import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from google.protobuf.message import Message

    from wherry.rpc.channel import Channel, Metadata

    T = TypeVar("T")

#: Bytes that this side, as the receiver, lets a sender have under way. Go's grants 64 KiB.
WINDOW = 4 << 20

#: Bytes of one Data message. Go's receiver takes what it granted, but its buffers are made for the smaller ones.
_PIECE = 1 << 20
_SMALL_PIECE = 32 << 10

#: Times that a stream is opened until it is either there or refused for a reason.
_ATTEMPTS = 10

#: Bytes of a stream's end that are kept.
_TAIL = 1024

#: Bytes of a grant up to which the receiver is taken for Go's.
_SMALL_WINDOW = 64 << 10


class Stream:
    """One stream, open on both sides. Made by `open_stream`."""

    def __init__(self, channel: Channel, metadata: Metadata, id: str) -> None:
        #: What a Transfer calls it.
        self.id = id
        self._outgoing: asyncio.Queue[Message | None] = asyncio.Queue(1)
        stub = Stub(channel, streaming_pb2.DESCRIPTOR.services_by_name["Streaming"])
        self._incoming: AsyncGenerator[Any, None] = stub.stream(self._requests(), metadata=metadata)

    async def _requests(self) -> AsyncIterator[Message]:
        yield pack(streaming_pb2.StreamInit(id=self.id))
        while (message := await self._outgoing.get()) is not None:
            yield pack(message)

    async def start(self) -> None:
        """Wait until the daemon knows the stream. Unimplemented if it has no such service."""
        if await anext(self._incoming, None) is None:
            raise Unavailable(f"stream {self.id}: the daemon ended it before it began")

    async def send(self, message: Message) -> None:
        """Send a message; returns when the one before it has been taken. Waits for ever on a stream that has ended."""
        await self._outgoing.put(message)

    async def end(self) -> None:
        """Tell the daemon that no message follows."""
        await self._outgoing.put(None)

    async def receive(self) -> Message | None:
        """Return the next message of a type that is known here; None after the last. Not in two tasks at once."""
        while (packed := await anext(self._incoming, None)) is not None:
            try:
                return unpack(packed)
            except InvalidArgument:
                continue  # of a newer daemon's
        return None

    async def receive_or_end(self) -> Message | None:
        """As `receive`, but None where the stream breaks, too: beside a transfer, whose own failure tells more."""
        try:
            return await self.receive()
        except Error:
            return None

    async def close(self) -> None:
        """End the stream in both directions, if it has not ended. No task may be receiving."""
        await self._incoming.aclose()


@asynccontextmanager
async def open_stream(channel: Channel, metadata: Metadata, kind: str) -> AsyncGenerator[Stream, None]:
    """Yield a new stream, and close it in the end. Unimplemented if the daemon has none: containerd before 1.7."""
    stream = await _opened(channel, metadata, kind)
    try:
        yield stream
    finally:
        await stream.close()


async def _opened(channel: Channel, metadata: Metadata, kind: str) -> Stream:
    for attempt in range(_ATTEMPTS):
        stream = Stream(channel, metadata, _id(kind))
        try:
            await stream.start()
            return stream
        except Internal:
            # What gRPC's Python says where the server ended the call, for whatever reason, while a message was sent.
            await stream.close()
            if attempt == _ATTEMPTS - 1:
                raise
        except BaseException:
            await stream.close()
            raise
    raise AssertionError


def _id(kind: str) -> str:
    """Return an id of Go's form: the nanoseconds of the second, and four letters."""
    letters = b2a_base64(urandom(3), newline=False).decode().translate({ord("+"): "-", ord("/"): "_"})
    return f"{kind}-{time.time_ns() % 1_000_000_000}-{letters}"


class _Window:
    """What the receiver has granted and the sender not yet used."""

    def __init__(self) -> None:
        self._rest = 0
        self._largest = 0
        self._granted = asyncio.Event()

    def grant(self, count: int) -> None:
        self._rest += count
        self._largest = max(self._largest, count)
        if self._rest > 0:
            self._granted.set()

    async def size(self) -> int:
        """Return how many bytes the next message may have, when there may be some."""
        await self._granted.wait()
        return min(self._rest, _SMALL_PIECE if self._largest <= _SMALL_WINDOW else _PIECE)

    def use(self, count: int) -> None:
        self._rest -= count
        if self._rest <= 0:
            self._granted.clear()


async def _take_grants(stream: Stream, window: _Window) -> None:
    while (message := await stream.receive_or_end()) is not None:
        if isinstance(message, transfer_pb2.WindowUpdate):
            window.grant(message.update)


async def send_bytes(stream: Stream, read: Callable[[int], bytes]) -> None:
    """Send what `read` (a file's) gives until it gives nothing, then end our side. It is called in a thread.

    Returns when the receiver has ended its side; one that wants no more leaves this waiting, to be cancelled. Raises
    what `read` does.
    """
    window = _Window()
    watching = asyncio.ensure_future(_take_grants(stream, window))
    try:
        with _Thread() as thread:
            while data := await thread.call(read, await window.size()):
                window.use(len(data))
                await stream.send(transfer_pb2.Data(data=data))
        await stream.end()
        # To stop receiving would be to call the stream off, with what the receiver has not taken yet.
        await asyncio.shield(watching)
    finally:
        watching.cancel()
        await asyncio.wait((watching,))


class Receiver:
    """Takes the bytes of a stream, granting windows."""

    def __init__(self, stream: Stream, write: Callable[[bytes], object]) -> None:
        """`write` (a file's) is called in a thread, with some bytes at a time."""
        self._stream = stream
        self._write = write
        self._waiting_since: float | None = None
        #: The last bytes that came.
        self.tail = b""

    @property
    def idle(self) -> float:
        """Seconds for which nothing has come, although it could."""
        return 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since

    async def run(self) -> None:
        """Return at the stream's end, or where it breaks: `tail` is to tell which. Raises what `write` does."""
        granted = 0
        with _Thread() as thread:
            while True:
                if granted <= WINDOW // 2:
                    await self._stream.send(transfer_pb2.WindowUpdate(update=WINDOW - granted))
                    granted = WINDOW
                self._waiting_since = time.monotonic()
                message = await self._stream.receive_or_end()
                self._waiting_since = None
                if message is None:
                    return
                if isinstance(message, transfer_pb2.Data):
                    granted -= len(message.data)
                    await thread.call(self._write, message.data)
                    self.tail = (self.tail + message.data[-_TAIL:])[-_TAIL:]


class _Thread:
    """A thread for calls that may block as long as they like, on a pipe that nobody reads: it is left to itself then,
    where an executor's would be waited for at the end of the loop."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], Any, asyncio.Future[Any]] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="stream", daemon=True).start()

    async def call(self, function: Callable[[Any], T], argument: Any) -> T:
        """Return what a function returns, or raise what it raises."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._calls.put((function, argument, future))
        return await future

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, argument, future = call
            try:
                self._finish(future, function(argument), None)
            except Exception as error:
                self._finish(future, None, error)

    def _finish(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        def finish() -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(finish)
        except RuntimeError:
            return  # the loop has ended without us

    def __enter__(self) -> _Thread:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._calls.put(None)

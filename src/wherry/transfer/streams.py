"""Bytes over a stream of messages, with a window: what imports come in by and exports go out by.

The receiver grants a window in bytes (`WindowUpdate`), the sender sends `Data` within it and half-closes at the end.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from wherry.api import typeurl
from wherry.api.types.transfer import transfer_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import InvalidArgument, Unavailable

#: The window of Go's receivers, in bytes, and what its senders put into one message.
GO_WINDOW = 65536
GO_PIECE = 32768
#: The window that we grant, and what a sender of ours puts into one message.
WINDOW = 1 << 20
PIECE = 256 << 10


class MessageStream(Protocol):
    """One end of a stream of messages."""

    async def send(self, message: AnyMessage) -> None: ...
    async def receive(self) -> AnyMessage | None:
        """Return the other side's next message, None at its end."""


class ByteReceiver:
    """The receiving end."""

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._window = 0

    async def receive(self) -> bytes:
        """Return the next bytes; b"" at the end. Unavailable if the sender is gone before that."""
        while True:
            # Granted half by half, so that the sender need not wait for us.
            if self._window <= WINDOW // 2:
                await self._grant(WINDOW - self._window)
            message = await self._stream.receive()
            if message is None:
                return b""
            data = typeurl.unpack(message)
            if not isinstance(data, transfer_pb2.Data):
                raise InvalidArgument(f"a stream of bytes has a message {message.type_url}: Data is expected")
            self._window = max(self._window - len(data.data), 0)
            if data.data:
                return data.data

    async def _grant(self, size: int) -> None:
        try:
            await self._stream.send(typeurl.pack(transfer_pb2.WindowUpdate(update=size)))
        except Unavailable:
            return  # it may have sent its last already: what it sent tells
        self._window += size


class ByteSender:
    """The sending end."""

    def __init__(self, stream: MessageStream) -> None:
        self._stream = stream
        self._window = 0

    async def send(self, data: bytes | memoryview) -> None:
        """Send bytes, when the receiver has room for them. Unavailable if it is gone."""
        rest = memoryview(data)
        while rest:
            await self._await_window()
            # Go's receivers are granted no more than they grant others: 64 KiB.
            limit = PIECE if self._window > GO_WINDOW else GO_PIECE
            piece = rest[: min(limit, self._window)]
            await self._stream.send(typeurl.pack(transfer_pb2.Data(data=bytes(piece))))
            self._window -= len(piece)
            rest = rest[len(piece) :]

    async def _await_window(self) -> None:
        while self._window <= 0:
            message = await self._stream.receive()
            if message is None:
                raise Unavailable("the receiver of a stream has left before its end")
            update = typeurl.unpack(message)
            if not isinstance(update, transfer_pb2.WindowUpdate):
                raise InvalidArgument(f"a stream's receiver sent {message.type_url}: WindowUpdate is expected")
            self._window += update.update


class ThreadReader:
    """A file that a thread reads from a receiver of the event loop's."""

    def __init__(self, receiver: ByteReceiver, loop: asyncio.AbstractEventLoop) -> None:
        self._receiver = receiver
        self._loop = loop
        self._left = b""
        self._at = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; b"" at the end."""
        if self._at == len(self._left) and not self._ended:
            self._left = asyncio.run_coroutine_threadsafe(self._receiver.receive(), self._loop).result()
            self._at = 0
            self._ended = not self._left
        data = self._left[self._at : self._at + size]
        self._at += len(data)
        return data


class ThreadWriter:
    """A file that a thread writes to a sender of the event loop's."""

    def __init__(self, sender: ByteSender, loop: asyncio.AbstractEventLoop) -> None:
        self._sender = sender
        self._loop = loop
        self._waiting = bytearray()

    def write(self, data: bytes | memoryview) -> int:
        """Take all of the data; it goes when a piece is full, or by `flush`."""
        self._waiting += data
        if len(self._waiting) >= PIECE:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Send what waits."""
        data, self._waiting = bytes(self._waiting), bytearray()
        asyncio.run_coroutine_threadsafe(self._sender.send(data), self._loop).result()

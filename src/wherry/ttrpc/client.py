"""A ttrpc client in an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence

from wherry.errors import DeadlineExceeded, Error, Unavailable, from_status
from wherry.ttrpc.connection import ClientConnection, Received, Responded

Metadata = Sequence[tuple[str, str]]


def closed_error() -> Error:
    """Return the error of every call on a connection that has ended, in Go's words."""
    return Unavailable("ttrpc: closed")


class _Call:
    """A call under way: the events that have come for it, and whoever waits for the next."""

    __slots__ = ("error", "events", "waiter")

    def __init__(self) -> None:
        self.events: list[Responded | Received] = []
        self.waiter: asyncio.Future[None] | None = None
        self.error: Error | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def next(self) -> Responded | Received:
        while not self.events:
            if self.error is not None:
                raise self.error
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        return self.events.pop(0)


class Client(asyncio.Protocol):
    """One connection. Calls run concurrently; after its end each fails with Unavailable, "ttrpc: closed"."""

    def __init__(self) -> None:
        self._protocol = ClientConnection()
        self._calls: dict[int, _Call] = {}
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        #: Done when the connection has ended, by either side.
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, path: str, timeout: float | None = None) -> Client:
        """Connect to a unix socket. OSError or TimeoutError (after `timeout` seconds) if that fails."""
        async with asyncio.timeout(timeout):
            _transport, client = await asyncio.get_running_loop().create_unix_connection(cls, path)
        return client

    @classmethod
    async def from_socket(cls, sock: socket.socket) -> Client:
        """Take over a connected socket."""
        _transport, client = await asyncio.get_running_loop().create_unix_connection(cls, sock=sock)
        return client

    @property
    def socket(self) -> socket.socket:
        """The connection's socket, for what the kernel knows of the peer."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        return sock

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._protocol.feed(data):
                call = self._calls.get(event.stream)
                if call is not None:  # else of a call that was given up
                    call.events.append(event)
                    call.wake()
        except Error:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        for call in self._calls.values():
            call.error = closed_error()
            call.wake()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def close(self) -> None:
        """Close the connection; what has been sent arrives, calls under way fail."""
        self._transport.close()

    def _open(
        self, service: str, method: str, payload: bytes, metadata: Metadata, timeout: float | None, **flags: bool
    ) -> tuple[int, _Call]:
        if self.closed.done() or self._transport.is_closing():
            raise closed_error()
        stream, frame = self._protocol.request(service, method, payload, metadata, timeout, **flags)
        call = self._calls[stream] = _Call()
        self._transport.write(frame)
        return stream, call

    async def unary(
        self, service: str, method: str, payload: bytes, metadata: Metadata = (), timeout: float | None = None
    ) -> bytes:
        """Make a call and return the payload of its response. `timeout` is in seconds: DeadlineExceeded after it."""
        stream, call = self._open(service, method, payload, metadata, timeout)
        try:
            async with asyncio.timeout(timeout):
                event = await call.next()
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            del self._calls[stream]
        if isinstance(event, Received):
            raise Unavailable(f"{service}/{method}: the server answered with a stream")
        if event.code:
            raise from_status(event.code, event.message)
        return event.payload

    async def stream(
        self,
        service: str,
        method: str,
        requests: bytes | AsyncIterator[bytes],
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Make a streaming call: send one request or an iterator of them, yield the responses."""
        if isinstance(requests, bytes):
            stream, call = self._open(service, method, requests, metadata, timeout, streaming=True)
            sender = None
        else:
            stream, call = self._open(service, method, b"", metadata, timeout, streaming=True, sending=True)
            sender = asyncio.create_task(self._send_all(stream, requests))
        try:
            async with asyncio.timeout(timeout):
                while True:
                    event = await call.next()
                    if isinstance(event, Responded):
                        if event.code:
                            raise from_status(event.code, event.message)
                        if event.payload:
                            yield event.payload
                        return
                    if event.data is not None:
                        yield event.data
                    if event.closed:
                        return
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            del self._calls[stream]
            if sender is not None and not sender.done():
                sender.cancel()
                if not self._transport.is_closing():
                    self._transport.write(self._protocol.end(stream))

    async def _send_all(self, stream: int, requests: AsyncIterator[bytes]) -> None:
        async for request in requests:
            await self._writable.wait()
            if self._transport.is_closing():
                return
            self._transport.write(self._protocol.send(stream, request))
        self._transport.write(self._protocol.end(stream))

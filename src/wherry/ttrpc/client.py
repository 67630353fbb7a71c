"""A ttrpc client in an event loop."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from wherry.errors import DeadlineExceeded, Error, Unavailable, Unknown, from_status
from wherry.ttrpc.connection import ClientConnection, ProtocolError, Received, Responded
from wherry.ttrpc.receiver import Receiver

Metadata = Sequence[tuple[str, str]]

#: Bytes of a stream's messages that nobody has taken before the connection is read no further. ttrpc has no flow
#: control of its own, so this holds up every call on the connection: not while one of them waits for its answer.
_MAX_UNTAKEN = 8 << 20

#: Seconds between attempts to connect to a server that has too many connections to accept.
_RETRY = 0.01


def closed_error() -> Error:
    """Return the error of every call on a connection that has ended, in Go's words."""
    return from_status(Unavailable.code, "ttrpc: closed")


class _Call:
    """A call under way: the events that have come for it, and whoever waits for the next."""

    __slots__ = ("ended", "events", "failure", "waiter")

    def __init__(self) -> None:
        self.events: deque[Responded | Received] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.ended = False
        self.failure: Exception | None = None  # of whatever yields the requests

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


def _size(event: Responded | Received) -> int:
    return len(event.data or b"") if isinstance(event, Received) else 0


class Client(Receiver):
    """One connection. Calls run concurrently; after its end each fails with Unavailable, "ttrpc: closed"."""

    def __init__(self) -> None:
        super().__init__()
        self._protocol = ClientConnection()
        self._calls: dict[int, _Call] = {}
        self._waiters = 0
        self._untaken = 0
        self._transport: asyncio.Transport
        self._writable = asyncio.Event()
        self._writable.set()
        #: Done when the connection has ended, by either side.
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def connect(cls, path: str, timeout: float | None = None) -> Client:
        """Connect to a unix socket. OSError or TimeoutError (after `timeout` seconds) if that fails."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        sock.connect(path)
                        return await cls.from_socket(sock)
                    except BlockingIOError:
                        # The server has many to accept, and nothing tells when it has room: asyncio's own connect
                        # would take such a socket for connected.
                        await asyncio.sleep(_RETRY)
        except BaseException:
            sock.close()
            raise

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
                if call is None or call.ended:
                    continue  # given up, or a server that goes on after the end
                call.events.append(event)
                call.ended = isinstance(event, Responded) or event.closed
                call.wake()
                self._untaken += _size(event)
        except ProtocolError:
            self._transport.abort()
        self._pause_or_resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self._writable.set()
        for call in self._calls.values():
            call.wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def close(self) -> None:
        """Close the connection; what has been sent arrives, calls under way fail."""
        self._transport.close()

    @property
    def _ended(self) -> bool:
        return self.closed.done() or self._transport.is_closing()

    def _pause_or_resume_reading(self) -> None:
        if self._ended:
            return
        if self._untaken > _MAX_UNTAKEN and not self._waiters:
            self._transport.pause_reading()
        elif not self._transport.is_reading():
            self._transport.resume_reading()

    def _open(
        self, service: str, method: str, payload: bytes, metadata: Metadata, timeout: float | None, **flags: bool
    ) -> tuple[int, _Call]:
        if self._ended:
            raise closed_error()
        stream, frame = self._protocol.request(service, method, payload, metadata, timeout, **flags)
        call = self._calls[stream] = _Call()
        self._transport.write(frame)
        return stream, call

    async def _next(self, call: _Call) -> Responded | Received:
        if not call.events:
            self._waiters += 1
            self._pause_or_resume_reading()
            try:
                while not call.events:
                    if call.failure is not None:
                        raise call.failure
                    if self.closed.done():
                        raise closed_error()
                    call.waiter = asyncio.get_running_loop().create_future()
                    await call.waiter
            finally:
                self._waiters -= 1
        event = call.events.popleft()
        size = _size(event)
        if size:
            self._untaken -= size
            self._pause_or_resume_reading()
        return event

    def _forget(self, stream: int) -> None:
        """Drop what is left of a call, and tell the server if it has not ended."""
        call = self._calls.pop(stream)
        self._untaken -= sum(map(_size, call.events))
        if not call.ended and not self._ended:
            self._transport.write(self._protocol.cancel(stream))
        self._pause_or_resume_reading()

    async def unary(
        self, service: str, method: str, payload: bytes, metadata: Metadata = (), timeout: float | None = None
    ) -> bytes:
        """Make a call and return the payload of its response. `timeout` is in seconds: DeadlineExceeded after it."""
        stream, call = self._open(service, method, payload, metadata, timeout)
        try:
            if timeout is None:
                event = await self._next(call)
            else:
                async with asyncio.timeout(timeout):
                    event = await self._next(call)
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            self._forget(stream)
        if isinstance(event, Received):
            raise Unknown(f"{service}/{method}: the server answered a unary call with a stream")
        if event.code:
            raise from_status(event.code, event.message)
        return event.payload or b""

    async def stream(
        self,
        service: str,
        method: str,
        requests: bytes | AsyncIterator[bytes],
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Make a streaming call: send one request or an iterator of them, yield the responses.

        Closing the generator cancels the call.
        """
        # asyncio.timeout cannot stand around a yield: it would cancel whoever iterates.
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        sender: asyncio.Task[None] | None = None
        if isinstance(requests, bytes):
            stream, call = self._open(service, method, requests, metadata, timeout, streaming=True)
        else:
            stream, call = self._open(service, method, b"", metadata, timeout, streaming=True, sending=True)
            sender = loop.create_task(self._send_all(stream, call, requests))
        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        event = await self._next(call)
                except TimeoutError:
                    raise DeadlineExceeded() from None
                if isinstance(event, Responded):
                    if event.code:
                        raise from_status(event.code, event.message)
                    if event.payload is not None:
                        yield event.payload
                    return
                if event.data is not None:
                    yield event.data
                if event.closed:
                    return
        finally:
            self._forget(stream)
            if sender is not None:
                sender.cancel()
                await asyncio.wait((sender,))

    async def _send_all(self, stream: int, call: _Call, requests: AsyncIterator[bytes]) -> None:
        try:
            async for request in requests:
                await self._writable.wait()
                if call.ended or self._ended:
                    return
                self._transport.write(self._protocol.send(stream, request))
            if not call.ended and not self._ended:
                self._transport.write(self._protocol.end(stream))
        except Exception as error:
            call.failure = error
            call.wake()
        finally:
            if isinstance(requests, AsyncGenerator):
                await requests.aclose()

"""A ttrpc server in an event loop: one task a call, any number of calls a connection, no thread."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from struct import Struct
from typing import Any

from wherry.errors import Cancelled, DeadlineExceeded, Error, Unavailable, Unimplemented, to_status
from wherry.ttrpc.connection import GivenUp, ProtocolError, Received, Refused, Requested, ServerConnection
from wherry.ttrpc.receiver import Receiver

log = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str]]
#: Takes a request's payload, its metadata and its timeout in seconds; returns the response's payload.
UnaryHandler = Callable[[bytes, Metadata, "float | None"], Awaitable[bytes]]
#: The same for a stream: the payloads of the client's messages in, those of the server's out.
StreamHandler = Callable[[AsyncIterator[bytes], Metadata, "float | None"], AsyncGenerator[bytes, None]]

#: Bytes of one client's messages that wait for their handlers before the connection is read no further. ttrpc has no
#: flow control of its own; two of the largest messages let a sender and a handler work at the same time.
_MAX_WAITING = 8 << 20

#: Bytes of answers that a client leaves unread before it is given no new work. Streams wait much earlier. Not at once,
#: or a client whose stream keeps the connection full could not call it off.
_MAX_UNSENT = 16 << 20

_UCRED = Struct("3i")


class Endpoint:
    """What serves one method: exactly one of `unary` and `stream`.

    `client_streams` and `server_streams` tell which sides of a stream have more than one message.
    """

    __slots__ = ("client_streams", "server_streams", "stream", "unary")

    def __init__(
        self,
        *,
        unary: UnaryHandler | None = None,
        stream: StreamHandler | None = None,
        client_streams: bool = False,
        server_streams: bool = False,
    ) -> None:
        self.unary = unary
        self.stream = stream
        self.client_streams = client_streams
        self.server_streams = server_streams


#: service name → method name → endpoint
Endpoints = Mapping[str, Mapping[str, Endpoint]]


class Server:
    """Serves endpoints on listening unix sockets to peers of the allowed users (root and the server's own if None)."""

    def __init__(self, endpoints: Endpoints, *, allowed_uids: Collection[int] | None = None) -> None:
        self.endpoints = endpoints
        self.allowed_uids = {0, os.geteuid()} if allowed_uids is None else set(allowed_uids)
        self._connections: set[_Connection] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._closer: asyncio.Task[None] | None = None
        self._serving = 0
        self._served = asyncio.Event()

    async def serve(self, sock: socket.socket) -> None:
        """Serve a listening socket, which becomes the server's, until `close` is called or this is cancelled.

        Calls under way are then cancelled and answered UNAVAILABLE.
        """
        loop = asyncio.get_running_loop()
        # The socket's file is its maker's: Python 3.13 would remove it.
        keep_file: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        listener = await loop.create_unix_server(lambda: _Connection(self), sock=sock, **keep_file)
        self._serving += 1
        self._served.clear()
        try:
            await self._closing.wait()
        finally:
            self._closing.set()
            listener.close()
            for call in self._calls:
                if call is not self._closer:
                    call.cancel()
            if self._calls:
                await asyncio.wait(self._calls)
            for connection in list(self._connections):
                connection.close()
            self._serving -= 1
            if not self._serving:
                self._served.set()

    async def close(self) -> None:
        """Make `serve` end, and wait for that; called by one of the server's own calls, let that one end first."""
        self._closing.set()
        caller = asyncio.current_task()
        if caller in self._calls:
            self._closer = caller
        elif self._serving:
            await self._served.wait()

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def start_call(self, call: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def add(self, connection: _Connection) -> None:
        self._connections.add(connection)

    def discard(self, connection: _Connection) -> None:
        self._connections.discard(connection)


class _Requests:
    """The client's messages of one streaming call, as they come in."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._messages: deque[bytes] = deque()
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: bytes | None, *, closed: bool) -> None:
        if message is not None:
            self._messages.append(message)
            self._connection.waiting(len(message))
        self._closed = self._closed or closed
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """Forget what nobody will take any more."""
        self._connection.waiting(-sum(map(len, self._messages)))
        self._messages.clear()
        self._closed = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._connection.waiting(-len(message))
        return message


class _Connection(Receiver):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._protocol = ServerConnection()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._requests: dict[int, _Requests] = {}
        self._waiting = 0
        self._unread = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in self._server.allowed_uids:
            log.warning("ttrpc: connection of user %d refused", uid)
            transport.abort()
        elif self._server.closing:
            transport.abort()
        else:
            self._server.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._server.discard(self)
        self._writable.set()
        for call in self._calls.values():
            call.cancel()

    def close(self) -> None:
        """Close once what has been written is sent."""
        self._transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._unread:
            self._unread = False
            self._pause_or_resume_reading()

    def waiting(self, change: int) -> None:
        """Count the bytes of messages that wait for their handlers."""
        before = self._waiting
        self._waiting += change
        if (before > _MAX_WAITING) != (self._waiting > _MAX_WAITING):
            self._pause_or_resume_reading()

    def _pause_or_resume_reading(self) -> None:
        if self._lost or self._transport.is_closing():
            return
        if self._unread or self._waiting > _MAX_WAITING:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._protocol.feed(data):
                if isinstance(event, Requested):
                    self._start(event)
                elif isinstance(event, Received):
                    requests = self._requests.get(event.stream)
                    if requests is not None:
                        requests.put(event.data, closed=event.closed)
                elif isinstance(event, Refused):
                    self._write(event.answer)
                    self._cancel(event.stream)
                else:
                    assert isinstance(event, GivenUp)
                    self._write(event.answer)
                    self._cancel(event.stream)
        except ProtocolError as error:
            log.warning("%s: connection closed", error)
            self._transport.abort()

    def _cancel(self, stream: int) -> None:
        call = self._calls.pop(stream, None)
        if call is not None:
            call.cancel()

    def _start(self, request: Requested) -> None:
        methods = self._server.endpoints.get(request.service)
        endpoint = methods.get(request.method) if methods is not None else None
        if endpoint is None or self._server.closing:
            if endpoint is not None:
                code, message = to_status(_stopping())
            else:
                # Go's text, which has no kind at its end.
                code = Unimplemented.code
                message = f"service {request.service}" if methods is None else f"method {request.method}"
            self._write(self._protocol.fail(request.stream, code, message))
            return
        if endpoint.unary is not None:
            call = self._unary(request, endpoint.unary)
        else:
            requests = _Requests(self)
            if not endpoint.client_streams or not request.open:
                requests.put(request.payload, closed=True)
            elif request.payload:
                requests.put(request.payload, closed=False)
            self._requests[request.stream] = requests
            call = self._stream(request, endpoint, requests)
        self._calls[request.stream] = self._server.start_call(call)

    async def _unary(self, request: Requested, handler: UnaryHandler) -> None:
        stream = request.stream
        try:
            if request.timeout is None:
                payload = await handler(request.payload, request.metadata, None)
            else:
                async with asyncio.timeout(request.timeout) as timeout:
                    payload = await handler(request.payload, request.metadata, request.timeout)
            answer = self._protocol.respond(stream, payload)
        except Exception as error:
            late = isinstance(error, TimeoutError) and request.timeout is not None and timeout.expired()
            answer = self._failure(request, DeadlineExceeded() if late else error)
        except asyncio.CancelledError:
            self._finish(stream, self._cancelled(stream))
            raise
        self._finish(stream, answer)

    async def _stream(self, request: Requested, endpoint: Endpoint, requests: _Requests) -> None:
        stream = request.stream
        assert endpoint.stream is not None
        responses = endpoint.stream(requests, request.metadata, request.timeout)
        timeout = asyncio.timeout(request.timeout)
        answer = b""
        try:
            async with timeout:
                try:
                    async for message in responses:
                        if not endpoint.server_streams:
                            answer = self._protocol.respond(stream, message)
                            break
                        self._write(self._protocol.send(stream, message))
                        await self._writable.wait()
                finally:
                    await responses.aclose()
            if endpoint.server_streams:
                answer = self._protocol.end(stream)
            elif not answer:
                raise Error(f"{request.service}/{request.method} ended without a response")
        except Exception as error:
            late = isinstance(error, TimeoutError) and timeout.expired()
            answer = self._failure(request, DeadlineExceeded() if late else error)
        except asyncio.CancelledError:
            self._finish(stream, self._cancelled(stream))
            raise
        self._finish(stream, answer)

    def _finish(self, stream: int, answer: bytes) -> None:
        requests = self._requests.pop(stream, None)
        if requests is not None:
            requests.drop()
        if self._calls.pop(stream, None) is not None:  # else it has been refused since, or given up
            self._write(answer)

    def _write(self, frame: bytes) -> None:
        if not self._lost and not self._transport.is_closing():
            self._transport.write(frame)
            if self._transport.get_write_buffer_size() > _MAX_UNSENT and not self._unread:
                self._unread = True
                self._pause_or_resume_reading()

    def _cancelled(self, stream: int) -> bytes:
        return self._protocol.fail(stream, *to_status(_stopping() if self._server.closing else Cancelled()))

    def _failure(self, request: Requested, error: Exception) -> bytes:
        if not isinstance(error, Error):
            log.debug("%s/%s failed", request.service, request.method, exc_info=error)
        return self._protocol.fail(request.stream, *to_status(error))


def _stopping() -> Error:
    return Unavailable("the server is stopping")

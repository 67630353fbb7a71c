"""A ttrpc server in an event loop: one task a call, any number of calls a connection, no thread."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from struct import Struct

from wherry.errors import Cancelled, DeadlineExceeded, Error, Unimplemented, from_status, to_status
from wherry.ttrpc.connection import Received, Refused, Requested, ServerConnection

log = logging.getLogger(__name__)

Metadata = Sequence[tuple[str, str]]
UnaryHandler = Callable[[bytes, Metadata, "float | None"], Awaitable[bytes]]
StreamHandler = Callable[[AsyncIterator[bytes], Metadata, "float | None"], AsyncIterator[bytes]]

_UCRED = Struct("3i")


class Endpoint:
    """What serves one method: exactly one of `unary` and `stream`."""

    __slots__ = ("stream", "unary")

    def __init__(self, *, unary: UnaryHandler | None = None, stream: StreamHandler | None = None) -> None:
        self.unary = unary
        self.stream = stream


#: service name → method name → endpoint
Endpoints = Mapping[str, Mapping[str, Endpoint]]


class Server:
    """Serves endpoints on listening unix sockets to peers of the allowed users (root and the server's own if None)."""

    def __init__(self, endpoints: Endpoints, *, allowed_uids: Collection[int] | None = None) -> None:
        self.endpoints = endpoints
        self.allowed_uids = {0, os.geteuid()} if allowed_uids is None else set(allowed_uids)
        self._connections: set[_Connection] = set()
        self._tasks: asyncio.TaskGroup | None = None
        self._closing = asyncio.Event()

    async def serve(self, sock: socket.socket) -> None:
        """Serve a listening socket until `close` is called or this is cancelled; calls under way are cancelled then."""
        loop = asyncio.get_running_loop()
        listener = await loop.create_unix_server(lambda: _Connection(self), sock=sock)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._closing.wait()
                listener.close()
                for connection in list(self._connections):
                    connection.close()
        finally:
            listener.close()

    def close(self) -> None:
        """Make `serve` return: what has been answered is still sent."""
        self._closing.set()

    def start_call(self, call: Awaitable[None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "a connection before serve()"

        async def run() -> None:
            await call

        return self._tasks.create_task(run())


class _Stream:
    """The client's messages of one streaming call."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.messages.get()) is not None:
            yield message


class _Connection(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._protocol = ServerConnection()
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, _Stream] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in self._server.allowed_uids:
            log.warning("ttrpc: connection of user %d refused", uid)
            transport.abort()
            return
        self._server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._connections.discard(self)
        self._writable.set()
        for task in self._calls.values():
            task.cancel()

    def close(self) -> None:
        """Cancel the calls and close once what has been written is sent."""
        for task in self._calls.values():
            task.cancel()
        self._transport.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._protocol.feed(data):
                if isinstance(event, Requested):
                    self._start(event)
                elif isinstance(event, Refused):
                    self._transport.write(event.answer)
                    self._end_stream(event.stream)
                else:
                    self._receive(event)
        except Error as error:
            log.warning("%s", error)
            self._transport.abort()

    def _start(self, request: Requested) -> None:
        methods = self._server.endpoints.get(request.service)
        endpoint = methods.get(request.method) if methods is not None else None
        if endpoint is None:
            missing = f"service {request.service}" if methods is None else f"method {request.method}"
            self._transport.write(self._protocol.fail(request.stream, Unimplemented(missing)))
            return
        if endpoint.unary is not None:
            call = self._unary(request, endpoint.unary)
        else:
            assert endpoint.stream is not None
            stream = _Stream()
            if request.payload or not request.open:
                stream.messages.put_nowait(request.payload)
            if request.open:
                self._streams[request.stream] = stream
            else:
                stream.messages.put_nowait(None)
            call = self._stream(request, endpoint.stream, stream)
        task = self._calls[request.stream] = self._server.start_call(call)
        task.add_done_callback(lambda _task: self._calls.pop(request.stream, None))

    def _receive(self, event: Received) -> None:
        stream = self._streams.get(event.stream)
        if stream is None:
            return  # of a call that has ended: the client could not know
        if event.data is not None:
            stream.messages.put_nowait(event.data)
        if event.closed:
            self._end_stream(event.stream)

    def _end_stream(self, stream_id: int) -> None:
        stream = self._streams.pop(stream_id, None)
        if stream is not None:
            stream.messages.put_nowait(None)

    async def _unary(self, request: Requested, handler: UnaryHandler) -> None:
        try:
            async with asyncio.timeout(request.timeout):
                payload = await handler(request.payload, request.metadata, request.timeout)
            answer = self._protocol.respond(request.stream, payload)
        except Exception as error:
            answer = self._failure(request, error)
        except asyncio.CancelledError:
            self._write(self._protocol.fail(request.stream, Cancelled()))
            raise
        self._write(answer)

    async def _stream(self, request: Requested, handler: StreamHandler, stream: _Stream) -> None:
        try:
            async with asyncio.timeout(request.timeout):
                async for message in handler(aiter(stream), request.metadata, request.timeout):
                    self._write(self._protocol.send(request.stream, message))
                    await self._writable.wait()
            answer = self._protocol.end(request.stream)
        except Exception as error:
            answer = self._failure(request, error)
        except asyncio.CancelledError:
            self._write(self._protocol.fail(request.stream, Cancelled()))
            raise
        finally:
            self._streams.pop(request.stream, None)
        self._write(answer)

    def _write(self, frame: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(frame)

    def _failure(self, request: Requested, error: Exception) -> bytes:
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded()
        elif not isinstance(error, Error):
            log.debug("%s.%s failed", request.service, request.method, exc_info=error)
        code, message = to_status(error)
        return self._protocol.fail(request.stream, from_status(code, message))

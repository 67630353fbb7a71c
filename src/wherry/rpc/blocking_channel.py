"""A channel over ttrpc without an event loop: a client that makes one call after another starts 40 ms sooner.

Its coroutines never suspend: each waits for its reply in poll(2), and `run` steps a coroutine made of such calls to its
end. While it waits, readers added with `add_reader` are called back, so that a program can copy a container's output or
forward a signal meanwhile.
"""

from __future__ import annotations

import select
import socket
import time

from wherry.errors import DeadlineExceeded, Unavailable, from_status
from wherry.rpc.channel import serialized
from wherry.ttrpc.connection import ClientConnection, Received, Responded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any, TypeVar

    from google.protobuf.message import Message

    from wherry.errors import Error
    from wherry.rpc.channel import Metadata
    from wherry.rpc.service import Method

    T = TypeVar("T")

_RECEIVE = 256 << 10


class BlockingTtrpcChannel:
    """Calls over one ttrpc connection, without asyncio. Not for use from two threads at once."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._protocol = ClientConnection()
        self._events: dict[int, list[Responded | Received]] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._end: Error | None = None

    @classmethod
    def connect(cls, path: str, timeout: float | None = 10.0) -> BlockingTtrpcChannel:
        """Connect to a unix socket. OSError if nobody answers there within `timeout` seconds."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            sock.connect(path)
            sock.settimeout(None)
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor can be read, or hangs up, while a call waits."""
        self._readers[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; nothing happens if there was none."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that awaits nothing but this channel's calls, and return its result."""
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        coroutine.close()
        raise RuntimeError("the coroutine awaits something else than a blocking channel")

    def wait_for_readers(self, timeout: float | None = None) -> None:
        """Wait until a reader was called back, or the connection had something to say, or `timeout` seconds passed."""
        self._wait(None if timeout is None else time.monotonic() + timeout)

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = self._open(method, request.SerializeToString(), metadata, timeout)
        try:
            event = self._next(stream, deadline)
        finally:
            del self._events[stream]
        if isinstance(event, Received):
            raise Unavailable(f"{method.service}/{method.name}: the server answered with a stream")
        if event.code:
            raise from_status(event.code, event.message)
        return method.response.FromString(event.payload)

    def start_unary(self, method: Method, request: Message, *, metadata: Metadata = ()) -> None:
        """Send a call whose answer is dropped when it comes: for use in a reader's callback."""
        stream = self._open(method, request.SerializeToString(), metadata, None)
        del self._events[stream]

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        """Make a streaming call. Responses that come while requests are still being sent are kept in order."""
        deadline = None if timeout is None else time.monotonic() + timeout
        payloads = serialized(requests)
        if isinstance(payloads, bytes):
            stream = self._open(method, payloads, metadata, timeout, streaming=True)
            ended = True
        else:
            stream = self._open(method, b"", metadata, timeout, streaming=True, sending=True)
            ended = False
        try:
            if not isinstance(payloads, bytes):
                async for payload in payloads:
                    self._send(self._protocol.send(stream, payload))
                    while self._events[stream]:
                        event = self._events[stream].pop(0)
                        if isinstance(event, Responded):
                            ended = True
                            for response in self._last(method, event):
                                yield response
                            return
                        if event.data is not None:
                            yield method.response.FromString(event.data)
                self._send(self._protocol.end(stream))
                ended = True
            while True:
                event = self._next(stream, deadline)
                if isinstance(event, Responded):
                    for response in self._last(method, event):
                        yield response
                    return
                if event.data is not None:
                    yield method.response.FromString(event.data)
                if event.closed:
                    return
        finally:
            del self._events[stream]
            if not ended and self._end is None:
                self._send(self._protocol.end(stream))

    async def close(self) -> None:
        self._socket.close()
        self._end = Unavailable("ttrpc: closed")

    def _last(self, method: Method, event: Responded) -> list[Any]:
        if event.code:
            raise from_status(event.code, event.message)
        return [method.response.FromString(event.payload)] if event.payload else []

    def _open(self, method: Method, payload: bytes, metadata: Metadata, timeout: float | None, **flags: bool) -> int:
        if self._end is not None:
            raise self._end
        stream, frame = self._protocol.request(method.service, method.name, payload, metadata, timeout, **flags)
        self._events[stream] = []
        self._send(frame)
        return stream

    def _send(self, frame: bytes) -> None:
        # A server that waits for us to read must not wait for ever: take what it says while our bytes do not fit.
        view = memoryview(frame)
        while view:
            try:
                view = view[self._socket.send(view, socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN | select.POLLOUT)
                if poll.poll()[0][1] & select.POLLIN:
                    self._receive()
                    if self._end is not None:
                        raise self._end from None
            except (BrokenPipeError, ConnectionResetError):
                self._end = Unavailable("ttrpc: closed")
                raise self._end from None

    def _next(self, stream: int, deadline: float | None) -> Responded | Received:
        while not self._events[stream]:
            if self._end is not None:
                raise self._end
            if not self._wait(deadline):
                raise DeadlineExceeded()
        return self._events[stream].pop(0)

    def _wait(self, deadline: float | None) -> bool:
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = self._poll.poll(timeout)
        for fd, _events in ready:
            if fd == self._socket.fileno():
                self._receive()
            elif fd in self._readers:
                self._readers[fd]()
        return bool(ready)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE)
        except ConnectionResetError:
            data = b""
        if not data:
            self._end = Unavailable("ttrpc: closed")
            self._poll.unregister(self._socket.fileno())
            return
        for event in self._protocol.feed(data):
            if event.stream in self._events:  # else its caller did not wait, or gave up
                self._events[event.stream].append(event)

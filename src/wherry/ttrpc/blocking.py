"""A ttrpc client without an event loop, which a program that makes one call after another starts 40 ms sooner with.

A call waits for its answer in poll(2). Meanwhile other descriptors are watched too, so that a program can copy a
container's output or forward a signal while it waits.
"""

from __future__ import annotations

import _socket  # socket.py on top of it imports enum and selectors, which takes longer than all else here
import errno
import select
import struct
import time

from wherry.errors import DeadlineExceeded, Unavailable, Unknown, from_status
from wherry.ttrpc.connection import ClientConnection, ProtocolError, Received, Responded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wherry.errors import Error

    Metadata = Sequence[tuple[str, str]]

#: Bytes taken from the socket at once: more than a unix socket holds by default.
_RECEIVE = 256 << 10

_SEND_FLAGS = _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL

#: As client.py's: bytes of streams that nobody has taken, over which the socket is not read while a call only sends.
_MAX_UNTAKEN = 8 << 20


def _closed_error() -> Error:
    return from_status(Unavailable.code, "ttrpc: closed")


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def _ends(event: Responded | Received) -> bool:
    return isinstance(event, Responded) or event.closed


def _size(event: Responded | Received) -> int:
    return len(event.data or b"") if isinstance(event, Received) else 0


class BlockingClient:
    """One connection. Not for use from two threads at once."""

    def __init__(self, sock: _socket.socket) -> None:
        """Take over a connected socket."""
        self._socket = sock
        self._fd = sock.fileno()
        self._protocol = ClientConnection()
        self._events: dict[int, list[Responded | Received]] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._ended = False

    @classmethod
    def connect(cls, path: str, timeout: float | None = None) -> BlockingClient:
        """Connect to a unix socket. OSError (TimeoutError after `timeout` seconds) if that fails."""
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            # Not settimeout(): a server with many connections to accept would be an error at once.
            if timeout is not None:
                sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(timeout))
            sock.connect(path)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(0))
        except BlockingIOError:
            sock.close()
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out") from None
        except BaseException:
            sock.close()
            raise
        return cls(sock)

    @property
    def socket(self) -> _socket.socket:
        """The connection's socket, for what the kernel knows of the peer."""
        return self._socket

    @property
    def closed(self) -> bool:
        """Whether the connection is known to have ended, by either side."""
        return self._ended

    def close(self) -> None:
        """Close the connection."""
        self._end()
        self._socket.close()

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor can be read, or hangs up, while a call or `wait` waits."""
        self._readers[fd] = callback
        self._poll.register(fd, select.POLLIN)

    def remove_reader(self, fd: int) -> None:
        """Undo add_reader; nothing happens if there was none."""
        if self._readers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def unary(
        self, service: str, method: str, payload: bytes, metadata: Metadata = (), timeout: float | None = None
    ) -> bytes:
        """Make a call and return the payload of its response. `timeout` is in seconds: DeadlineExceeded after it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = self._open(service, method, payload, metadata, timeout)
        ended = False
        try:
            event = self._next(stream, deadline)
            ended = True
        finally:
            self._forget(stream, ended)
        if isinstance(event, Received):
            raise Unknown(f"{service}/{method}: the server answered a unary call with a stream")
        if event.code:
            raise from_status(event.code, event.message)
        return event.payload or b""

    def start_unary(self, service: str, method: str, payload: bytes, metadata: Metadata = ()) -> None:
        """Send a call whose answer is dropped when it comes. It alone may be used in a reader's callback."""
        stream = self._open(service, method, payload, metadata, None)
        del self._events[stream]

    def start_stream(
        self,
        service: str,
        method: str,
        payload: bytes,
        metadata: Metadata = (),
        timeout: float | None = None,
        *,
        sending: bool = False,
    ) -> BlockingStream:
        """Begin a streaming call with the one request there is, or (`sending`) with b"" and the requests to be sent."""
        deadline = None if timeout is None else time.monotonic() + timeout
        stream = self._open(service, method, payload, metadata, timeout, streaming=True, sending=sending)
        return BlockingStream(self, stream, deadline)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until a reader was called back, or the server had something to say, or `timeout` seconds passed."""
        self._wait(None if timeout is None else time.monotonic() + timeout)

    def _open(
        self, service: str, method: str, payload: bytes, metadata: Metadata, timeout: float | None, **flags: bool
    ) -> int:
        if self._ended:
            raise _closed_error()
        stream, frame = self._protocol.request(service, method, payload, metadata, timeout, **flags)
        self._events[stream] = []
        try:
            self._send(frame)
        except BaseException:
            del self._events[stream]
            raise
        return stream

    def _forget(self, stream: int, ended: bool) -> None:
        events = self._events.pop(stream)
        if not ended and not self._ended and not any(map(_ends, events)):
            try:
                self._send(self._protocol.cancel(stream))
            except Unavailable:
                pass  # the connection has ended, and the call with it

    def _send(self, frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            try:
                sent = self._socket.send(view, _SEND_FLAGS)
                view = view[sent:]
            except BlockingIOError:
                self._wait_to_send()
            except OSError:
                # What the server said last may still be there to be read; the next who waits for it reads it first.
                raise _closed_error() from None

    def _wait_to_send(self) -> None:
        # A server that waits for us to read must not wait for ever: take what it says while our bytes do not fit.
        poll = select.poll()
        untaken = sum(_size(event) for events in self._events.values() for event in events)
        poll.register(self._fd, select.POLLOUT | (select.POLLIN if untaken <= _MAX_UNTAKEN else 0))
        for _fd, ready in poll.poll():
            if ready & select.POLLIN:
                self._receive()
                if self._ended:
                    raise _closed_error()

    def _next(self, stream: int, deadline: float | None) -> Responded | Received:
        events = self._events[stream]
        while not events:
            if self._ended:
                raise _closed_error()
            if not self._wait(deadline) and deadline is not None and time.monotonic() >= deadline:
                raise DeadlineExceeded()
        return events.pop(0)

    def _wait(self, deadline: float | None) -> bool:
        # poll counts whole milliseconds; Python rounds up to them.
        ready = self._poll.poll(None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000)
        for fd, _events in ready:
            if fd == self._fd:
                self._receive()
            else:
                callback = self._readers.get(fd)  # None if a callback before it removed it
                if callback is not None:
                    callback()
        return bool(ready)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE)
            if not data:
                self._end()
            for event in self._protocol.feed(data):
                events = self._events.get(event.stream)
                if events is not None:  # else its caller did not wait, or gave up
                    events.append(event)
        except (OSError, ProtocolError):
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._poll.unregister(self._fd)


class BlockingStream:
    """A streaming call under way."""

    def __init__(self, client: BlockingClient, stream: int, deadline: float | None) -> None:
        self._client = client
        self._stream = stream
        self._deadline = deadline
        self._closed = False
        self._ended = False

    def send(self, payload: bytes) -> bool:
        """Send one message. False if the server has ended the call, so that no more are wanted."""
        events = self._client._events[self._stream]
        if any(map(_ends, events)):
            return False
        self._client._send(self._client._protocol.send(self._stream, payload))
        return True

    def end(self) -> None:
        """Tell that no more will be sent."""
        self._client._send(self._client._protocol.end(self._stream))

    def arrived(self) -> Iterator[bytes]:
        """Yield the responses that are here already, without waiting."""
        while not self._ended and self._client._events[self._stream]:
            payload = self._take()
            if payload is not None:
                yield payload

    def __iter__(self) -> Iterator[bytes]:
        """Yield the responses to the stream's end, waiting for each. Raises the error that ends it."""
        while not self._ended:
            payload = self._take()
            if payload is not None:
                yield payload

    def _take(self) -> bytes | None:
        event = self._client._next(self._stream, self._deadline)
        if isinstance(event, Responded):
            self._ended = True
            if event.code:
                raise from_status(event.code, event.message)
            return event.payload
        self._ended = event.closed
        return event.data

    def close(self) -> None:
        """Give the call up if it has not ended. Must be called, and may be more than once."""
        if not self._closed:
            self._closed = True
            self._client._forget(self._stream, self._ended)

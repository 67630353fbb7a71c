"""The two ends of a ttrpc connection as state machines: bytes in, events out; calls in, bytes out. No I/O.

Streams, as Go's ttrpc speaks them:

* A client opens a stream by a request frame with an odd id, larger than any before it. A unary request has no flags; a
  streaming one says REMOTE_OPEN if the client will send data, REMOTE_CLOSED if the request is all there is.
* Data frames go either way. REMOTE_CLOSED on one ends its sender's side; NO_DATA says that it carries no message, not
  even an empty one.
* A response frame ends the stream: with the one response of a unary call, or with a stream's failure.
"""

from __future__ import annotations

from wherry.errors import Internal, InvalidArgument, ResourceExhausted, Unavailable
from wherry.ttrpc.frames import (
    DATA,
    MAX_DATA,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    FrameParser,
    encode,
)
from wherry.ttrpc.ttrpc_pb2 import KeyValue, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.errors import Error
    from wherry.ttrpc.frames import Frame


class Requested:
    """A call came in. `timeout` is in seconds; `open` tells that data frames of the client will follow."""

    __slots__ = ("metadata", "method", "open", "payload", "service", "stream", "streaming", "timeout")

    def __init__(self, stream: int, request: Request, flags: int) -> None:
        self.stream = stream
        self.service = request.service
        self.method = request.method
        self.payload = request.payload
        self.metadata = [(pair.key, pair.value) for pair in request.metadata]
        self.timeout = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
        self.open = bool(flags & REMOTE_OPEN)
        self.streaming = bool(flags & (REMOTE_OPEN | REMOTE_CLOSED))


class Refused:
    """A request that cannot be served; `answer` is to be sent."""

    __slots__ = ("answer", "stream")

    def __init__(self, stream: int, answer: bytes) -> None:
        self.stream = stream
        self.answer = answer


class Received:
    """A message of a stream: `data` is None if the frame carried none, `closed` tells that it was the sender's last."""

    __slots__ = ("closed", "data", "stream")

    def __init__(self, stream: int, data: bytes | None, closed: bool) -> None:
        self.stream = stream
        self.data = data
        self.closed = closed


class Responded:
    """A call ended, with a payload or with the status code and text of a failure."""

    __slots__ = ("code", "message", "payload", "stream")

    def __init__(self, stream: int, code: int, message: str, payload: bytes) -> None:
        self.stream = stream
        self.code = code
        self.message = message
        self.payload = payload


def _received(frame: Frame) -> Received:
    closed = bool(frame.flags & REMOTE_CLOSED)
    return Received(frame.stream, None if frame.flags & NO_DATA else frame.data, closed)


class ServerConnection:
    """The server's end."""

    def __init__(self) -> None:
        self._frames = FrameParser()
        self._last_stream = 0

    def feed(self, data: bytes) -> Iterator[Requested | Refused | Received]:
        """Take bytes from the client. Internal if they are not ttrpc: the connection is of no use any more."""
        for frame in self._frames.feed(data):
            if frame.type == DATA:
                if frame.data is None:
                    yield Refused(frame.stream, self._too_long(frame))
                else:
                    yield _received(frame)
            elif frame.type == REQUEST:
                yield self._request(frame)
            else:
                raise Internal(f"ttrpc: a client sent a frame of type {frame.type}")

    def _request(self, frame: Frame) -> Requested | Refused:
        stream = frame.stream
        # Even ids are the server's own, and a client's only grow.
        if stream % 2 != 1 or stream <= self._last_stream:
            return Refused(stream, self.fail(stream, InvalidArgument(f"StreamID {stream} must be odd and grow")))
        self._last_stream = stream
        if frame.data is None:
            return Refused(stream, self._too_long(frame))
        try:
            request = Request.FromString(frame.data)
        except Exception as error:
            return Refused(stream, self.fail(stream, InvalidArgument(f"unmarshal request: {error}")))
        return Requested(stream, request, frame.flags)

    def _too_long(self, frame: Frame) -> bytes:
        text = f"message length {frame.length} exceed maximum message size of {MAX_DATA}"
        return self.fail(frame.stream, ResourceExhausted(text))

    def respond(self, stream: int, payload: bytes) -> bytes:
        """Return the frame that ends a unary call. ResourceExhausted if the payload is too long."""
        return encode(stream, RESPONSE, 0, Response(payload=payload, status={}).SerializeToString())

    def fail(self, stream: int, error: Error) -> bytes:
        """Return the frame that ends a call with an error."""
        response = Response()
        response.status.code = error.code
        response.status.message = error.message
        return encode(stream, RESPONSE, 0, response.SerializeToString())

    def send(self, stream: int, data: bytes) -> bytes:
        """Return the frame of one message of a stream."""
        return encode(stream, DATA, 0, data)

    def end(self, stream: int) -> bytes:
        """Return the frame that ends a stream without an error."""
        return encode(stream, DATA, REMOTE_CLOSED | NO_DATA, b"")


class ClientConnection:
    """The client's end."""

    def __init__(self) -> None:
        self._frames = FrameParser()
        self._next_stream = 1

    def feed(self, data: bytes) -> Iterator[Responded | Received]:
        """Take bytes from the server. Unavailable if they are not ttrpc: the connection is of no use any more."""
        for frame in self._frames.feed(data):
            if frame.type == RESPONSE:
                yield self._response(frame)
            elif frame.type == DATA:
                if frame.data is None:
                    yield Responded(frame.stream, ResourceExhausted.code, f"response of {frame.length} bytes", b"")
                else:
                    yield _received(frame)
            else:
                raise Unavailable(f"ttrpc: the server sent a frame of type {frame.type}: closed")

    def _response(self, frame: Frame) -> Responded:
        if frame.data is None:
            return Responded(frame.stream, ResourceExhausted.code, f"response of {frame.length} bytes", b"")
        try:
            response = Response.FromString(frame.data)
        except Exception as error:
            raise Unavailable(f"ttrpc: the server sent a malformed response ({error}): closed") from None
        return Responded(frame.stream, response.status.code, response.status.message, response.payload)

    def request(
        self,
        service: str,
        method: str,
        payload: bytes,
        metadata: Sequence[tuple[str, str]] = (),
        timeout: float | None = None,
        *,
        streaming: bool = False,
        sending: bool = False,
    ) -> tuple[int, bytes]:
        """Return a new call's stream id and its request frame. ResourceExhausted if it is too long."""
        request = Request(service=service, method=method, payload=payload)
        if timeout is not None:
            request.timeout_nano = max(1, int(timeout * 1e9))
        for key, value in metadata:
            request.metadata.append(KeyValue(key=key, value=value))
        stream = self._next_stream
        flags = REMOTE_OPEN if sending else REMOTE_CLOSED if streaming else 0
        frame = encode(stream, REQUEST, flags, request.SerializeToString())
        self._next_stream += 2
        return stream, frame

    def send(self, stream: int, data: bytes) -> bytes:
        """Return the frame of one message of the client's."""
        return encode(stream, DATA, REMOTE_OPEN, data)

    def end(self, stream: int) -> bytes:
        """Return the frame that ends the client's side of a stream."""
        return encode(stream, DATA, REMOTE_CLOSED | NO_DATA, b"")

"""The two ends of a ttrpc connection as state machines: bytes in, events out; calls in, bytes out. No I/O.

Streams, as Go's ttrpc speaks them:

* A client opens a stream by a request frame with an odd id, larger than any before it. A unary request has no flags; a
  streaming one says REMOTE_OPEN if the client will send data, REMOTE_CLOSED if the request is all there is.
* Data frames go either way. REMOTE_CLOSED on one ends its sender's side; NO_DATA says that it carries no message, not
  even an empty one.
* A response frame ends the stream: with the response of a call whose server does not stream, or with a failure. A
  stream of responses that ends well ends by a data frame with REMOTE_CLOSED.
* Frames of types to come are ignored by a server.

ttrpc has no way to take a call back, so there is one call of wherry's own: ``wherry.ttrpc.v1.Connection/Cancel``, with
the id of a stream. It is sent when a caller gives up, and answered like any call; a peer without it answers
UNIMPLEMENTED, and nothing is lost. A frame on the stream itself would not do: Go's server dies of data for a stream
that has ended.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument, ResourceExhausted, Unavailable
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
from wherry.ttrpc.ttrpc_pb2 import CancelRequest, KeyValue, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wherry.ttrpc.frames import Frame

CANCEL_SERVICE = "wherry.ttrpc.v1.Connection"
CANCEL_METHOD = "Cancel"

_LAST_STREAM = (1 << 32) - 1
_OK = b"\n\x00"  # a Response with a Status that says OK: Go's old client refuses one without a status


class ProtocolError(Exception):
    """The peer does not speak ttrpc. The connection is of no use any more."""


class Requested:
    """A call came in. `timeout` is in seconds; `open` tells that data frames of the client will follow."""

    __slots__ = ("metadata", "method", "open", "payload", "service", "stream", "timeout")

    def __init__(self, stream: int, request: Request, flags: int) -> None:
        self.stream = stream
        self.service = request.service
        self.method = request.method
        self.payload = request.payload
        self.metadata = [(pair.key, pair.value) for pair in request.metadata]
        self.timeout = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
        self.open = bool(flags & REMOTE_OPEN)


class Refused:
    """A frame that cannot be served. `answer` is to be sent; the call on that stream, if there is one, has ended."""

    __slots__ = ("answer", "stream")

    def __init__(self, stream: int, answer: bytes) -> None:
        self.stream = stream
        self.answer = answer


class GivenUp:
    """The client gave up the call on a stream, which may have ended already. `answer` is to be sent."""

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
    """A call ended: with a payload, with the status code and text of a failure, or (a stream) with neither."""

    __slots__ = ("code", "message", "payload", "stream")

    def __init__(self, stream: int, code: int, message: str, payload: bytes | None) -> None:
        self.stream = stream
        self.code = code
        self.message = message
        self.payload = payload


def _too_long(frame: Frame) -> str:
    return f"message length {frame.length} exceed maximum message size of {MAX_DATA}"


class ServerConnection:
    """The server's end."""

    def __init__(self) -> None:
        self._frames = FrameParser()
        self._last_stream = 0
        #: The streams whose call has not ended, and whether the client's side is open.
        self._calls: dict[int, bool] = {}

    def feed(self, data: bytes) -> Iterator[Requested | Refused | Received | GivenUp]:
        """Take bytes from the client and yield what happened: exhaust it. ProtocolError if they are not ttrpc."""
        for frame in self._frames.feed(data):
            if frame.data is None:
                if not REQUEST <= frame.type <= DATA:
                    # Neither a length nor a type of ttrpc's: somebody speaks HTTP or the like to us.
                    raise ProtocolError(f"ttrpc: frame of type {frame.type} and {frame.length} bytes")
                yield self._refuse(frame.stream, ResourceExhausted.code, _too_long(frame))
            elif frame.stream % 2 != 1:
                text = "StreamID must be odd for client initiated streams"
                yield self._refuse(frame.stream, InvalidArgument.code, text)
            elif frame.type == DATA:
                event = self._data(frame, frame.data)
                if event is not None:
                    yield event
            elif frame.type == REQUEST:
                yield self._request(frame, frame.data)

    def _request(self, frame: Frame, data: bytes) -> Requested | Refused | GivenUp:
        stream = frame.stream
        if stream <= self._last_stream:
            text = "StreamID cannot be re-used and must increment"
            return self._refuse(stream, InvalidArgument.code, text)
        self._last_stream = stream
        try:
            request = Request.FromString(data)
            if request.service == CANCEL_SERVICE and request.method == CANCEL_METHOD:
                given_up = CancelRequest.FromString(request.payload).stream
                return GivenUp(given_up, encode(stream, RESPONSE, 0, _OK))
        except Exception as error:
            return self._refuse(stream, InvalidArgument.code, f"unmarshal request error: {error}")
        self._calls[stream] = bool(frame.flags & REMOTE_OPEN)
        return Requested(stream, request, frame.flags)

    def _data(self, frame: Frame, data: bytes) -> Received | Refused | None:
        stream = frame.stream
        client_open = self._calls.get(stream)
        if client_open is None:
            if stream > self._last_stream:
                return self._refuse(stream, InvalidArgument.code, "StreamID is no longer active")
            return None  # of a call that has ended, which the client could not know yet
        closed = bool(frame.flags & REMOTE_CLOSED)
        carries = not frame.flags & NO_DATA
        if not client_open:
            if not carries:
                return None
            return self._refuse(stream, InvalidArgument.code, "data handling error: ttrpc: stream closed")
        if closed:
            self._calls[stream] = False
        return Received(stream, data if carries else None, closed)

    def _refuse(self, stream: int, code: int, message: str) -> Refused:
        # Also for an id that was wrong: the answer on it is how the client learns which.
        return Refused(stream, self.fail(stream, code, message))

    def respond(self, stream: int, payload: bytes) -> bytes:
        """Return the frame that ends a call with its one response. ResourceExhausted if that is too long."""
        response = _OK + Response(payload=payload).SerializeToString()
        frame = encode(stream, RESPONSE, 0, response)
        self._calls.pop(stream, None)
        return frame

    def fail(self, stream: int, code: int, message: str) -> bytes:
        """Return the frame that ends a call with a status code and text. A text too long for a frame is cut."""
        # A character is at most four bytes; half a frame leaves room for the status around it.
        message = message[: MAX_DATA // 8].encode("utf-8", "backslashreplace").decode()
        response = Response()
        response.status.code = code
        response.status.message = message
        self._calls.pop(stream, None)
        return encode(stream, RESPONSE, 0, response.SerializeToString())

    def send(self, stream: int, data: bytes) -> bytes:
        """Return the frame of one message of a stream. ResourceExhausted if it is too long."""
        return encode(stream, DATA, 0, data)

    def end(self, stream: int) -> bytes:
        """Return the frame that ends a stream of responses without an error."""
        self._calls.pop(stream, None)
        return encode(stream, DATA, REMOTE_CLOSED | NO_DATA, b"")


class ClientConnection:
    """The client's end."""

    def __init__(self) -> None:
        self._frames = FrameParser()
        self._next_stream = 1

    def feed(self, data: bytes) -> Iterator[Responded | Received]:
        """Take bytes from the server and yield what happened: exhaust it. ProtocolError if they are not ttrpc.

        Events may be of a stream that the caller has given up.
        """
        for frame in self._frames.feed(data):
            stream = frame.stream
            if frame.type not in (RESPONSE, DATA) or stream % 2 != 1 or stream >= self._next_stream:
                raise ProtocolError(f"ttrpc: the server sent a frame of type {frame.type} on stream {stream}")
            if frame.data is None:
                yield Responded(stream, ResourceExhausted.code, _too_long(frame), None)
            elif frame.type == RESPONSE:
                yield self._response(stream, frame.data)
            else:
                closed = bool(frame.flags & REMOTE_CLOSED)
                yield Received(stream, None if frame.flags & NO_DATA else frame.data, closed)

    def _response(self, stream: int, data: bytes) -> Responded:
        try:
            response = Response.FromString(data)
        except Exception as error:
            raise ProtocolError(f"ttrpc: the server sent a malformed response: {error}") from None
        return Responded(stream, response.status.code, response.status.message, response.payload)

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
        """Return a new call's stream id and its request frame. ResourceExhausted if it is too long.

        `timeout` is in seconds. `streaming` says that either side streams, `sending` that this one does.
        """
        stream = self._next_stream
        if stream > _LAST_STREAM:
            raise Unavailable("ttrpc: closed: every stream id of the connection has been used")
        request = Request(service=service, method=method, payload=payload)
        if timeout is not None:
            request.timeout_nano = max(1, int(timeout * 1e9))
        for key, value in metadata:
            request.metadata.append(KeyValue(key=key, value=value))
        flags = REMOTE_OPEN if sending else REMOTE_CLOSED if streaming else 0
        frame = encode(stream, REQUEST, flags, request.SerializeToString())
        self._next_stream += 2
        return stream, frame

    def cancel(self, stream: int) -> bytes:
        """Return the frame that tells a wherry server that nobody waits for a call any more."""
        payload = CancelRequest(stream=stream).SerializeToString()
        _stream, frame = self.request(CANCEL_SERVICE, CANCEL_METHOD, payload)
        return frame

    def send(self, stream: int, data: bytes) -> bytes:
        """Return the frame of one message of the client's. ResourceExhausted if it is too long."""
        return encode(stream, DATA, 0, data)

    def end(self, stream: int) -> bytes:
        """Return the frame that ends the client's side of a stream."""
        return encode(stream, DATA, REMOTE_CLOSED | NO_DATA, b"")

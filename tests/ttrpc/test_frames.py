"""The frame parser and the two state machines: any split of any bytes gives the same events, or one clean error."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wherry.errors import ResourceExhausted
from wherry.ttrpc.connection import (
    ClientConnection,
    GivenUp,
    ProtocolError,
    Received,
    Refused,
    Requested,
    Responded,
    ServerConnection,
)
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


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Cut data at some places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


def facts(event: object) -> object:
    """An event as something that can be compared."""
    names = [name for cls in type(event).__mro__ for name in getattr(cls, "__slots__", ())]
    return type(event).__name__, *((name, getattr(event, name)) for name in names)


def outcome(machine: ServerConnection | ClientConnection, chunks: list[bytes]) -> list[object]:
    """Everything a machine made of chunks, an error as the last thing."""
    found: list[object] = []
    for chunk in chunks:
        try:
            for event in machine.feed(chunk):
                found.append(facts(event))
        except ProtocolError as error:
            return [*found, ("error", str(error))]
    return found


frame_bytes = st.builds(
    lambda stream, type_, flags, data: encode(stream, type_, flags, data),
    st.integers(0, 12) | st.integers(0, 2**32 - 1),
    st.sampled_from([REQUEST, RESPONSE, DATA]) | st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=60)
    | st.builds(
        lambda service, timeout, payload: Request(
            service=service, method="M", timeout_nano=timeout, payload=payload
        ).SerializeToString(),
        st.text(max_size=5),
        st.integers(-5, 5),
        st.binary(max_size=9),
    )
    | st.builds(lambda payload: Response(payload=payload).SerializeToString(), st.binary(max_size=9)),
)
oversize = st.builds(
    lambda extra, stream, type_: struct.pack(">IIBB", MAX_DATA + extra, stream, type_, 0) + bytes(MAX_DATA + extra),
    st.integers(1, 20),
    st.integers(0, 9),
    st.integers(0, 5),
)
streams_of_bytes = st.lists(frame_bytes | st.binary(max_size=40), max_size=8).map(b"".join)


@given(streams_of_bytes, st.lists(st.integers(0, 1000), max_size=10))
@example(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [1, 2, 3])
def test_any_split_of_any_bytes_gives_the_same_events(data: bytes, cuts: list[int]) -> None:
    chunks = pieces(data, cuts)
    for make in (ServerConnection, ClientConnection):
        machine = make()
        if isinstance(machine, ClientConnection):
            for _ in range(4):
                machine.request("s", "m", b"")
        other = make()
        if isinstance(other, ClientConnection):
            for _ in range(4):
                other.request("s", "m", b"")
        assert outcome(machine, [data]) == outcome(other, chunks)


@given(st.binary(max_size=300))
def test_a_byte_at_a_time_is_as_good_as_at_once(data: bytes) -> None:
    whole, single = FrameParser(), FrameParser()
    at_once = [(f.stream, f.type, f.flags, f.data, f.length) for f in whole.feed(data)]
    by_byte = [
        (f.stream, f.type, f.flags, f.data, f.length) for i in range(len(data)) for f in single.feed(data[i : i + 1])
    ]
    assert at_once == by_byte


@given(oversize, streams_of_bytes, st.lists(st.integers(0, MAX_DATA + 2000), max_size=4))
def test_a_long_frame_is_discarded_and_what_follows_is_read(long: bytes, rest: bytes, cuts: list[int]) -> None:
    parser = FrameParser()
    frames = [frame for chunk in pieces(long + rest, cuts) for frame in parser.feed(chunk)]
    alone = FrameParser().feed(rest)
    assert frames[0].data is None and frames[0].length == len(long) - 10
    assert [(f.stream, f.data) for f in frames[1:]] == [(f.stream, f.data) for f in alone]


@given(st.binary(max_size=50), st.integers(0, 2**31 - 1).map(lambda n: 2 * n + 1))
def test_an_encoded_frame_is_read_back(data: bytes, stream: int) -> None:
    (frame,) = FrameParser().feed(encode(stream, DATA, REMOTE_CLOSED, data))
    assert (frame.stream, frame.type, frame.flags, frame.data) == (stream, DATA, REMOTE_CLOSED, data)


def test_the_longest_frame_passes_and_a_longer_one_is_not_encoded() -> None:
    (frame,) = FrameParser().feed(encode(1, DATA, 0, bytes(MAX_DATA)))
    assert frame.data is not None and len(frame.data) == MAX_DATA
    with pytest.raises(ResourceExhausted, match="message length 4194305 exceed maximum message size of 4194304"):
        encode(1, DATA, 0, bytes(MAX_DATA + 1))


def request_frame(stream: int, flags: int = 0, **fields: object) -> bytes:
    return encode(stream, REQUEST, flags, Request(service="s", method="m", **fields).SerializeToString())  # type: ignore[arg-type]


def answer(refused: object) -> tuple[int, str]:
    """The status code and text of a refusal's answer."""
    assert isinstance(refused, Refused)
    (frame,) = FrameParser().feed(refused.answer)
    assert (frame.stream, frame.type) == (refused.stream, RESPONSE) and frame.data is not None
    status = Response.FromString(frame.data).status
    return status.code, status.message


def test_a_request_is_understood() -> None:
    (event,) = ServerConnection().feed(
        request_frame(3, REMOTE_OPEN, payload=b"p", timeout_nano=1_500_000_000, metadata=[KeyValue(key="k", value="v")])
    )
    assert isinstance(event, Requested)
    assert (event.stream, event.service, event.method, event.payload) == (3, "s", "m", b"p")
    assert (event.metadata, event.timeout, event.open) == ([("k", "v")], 1.5, True)


@pytest.mark.parametrize(
    ("frames", "code", "text"),
    [
        (request_frame(2), 3, "StreamID must be odd for client initiated streams"),
        (request_frame(0), 3, "StreamID must be odd for client initiated streams"),
        (request_frame(5) + request_frame(5), 3, "StreamID cannot be re-used and must increment"),
        (request_frame(5) + request_frame(3), 3, "StreamID cannot be re-used and must increment"),
        (encode(1, DATA, 0, b"x"), 3, "StreamID is no longer active"),
        (request_frame(1) + encode(1, DATA, 0, b"x"), 3, "data handling error: ttrpc: stream closed"),
        (struct.pack(">IIBB", MAX_DATA + 1, 1, REQUEST, 0), 8, "message length 4194305 exceed maximum"),
    ],
)
def test_what_a_server_refuses(frames: bytes, code: int, text: str) -> None:
    *_, last = ServerConnection().feed(frames)
    got, message = answer(last)
    assert got == code and message.startswith(text)


def test_a_request_that_is_no_message_is_refused() -> None:
    (event,) = ServerConnection().feed(encode(1, REQUEST, 0, b"\xff\xff"))
    code, text = answer(event)
    assert code == 3 and text.startswith("unmarshal request error: ")


def test_frames_of_types_to_come_are_ignored_but_other_protocols_are_not() -> None:
    server = ServerConnection()
    assert [type(event) for event in server.feed(encode(1, 9, 0, b"x") + request_frame(1))] == [Requested]
    with pytest.raises(ProtocolError):
        list(server.feed(b"GET / HTTP/1.1\r\n"))


def test_data_for_a_call_that_has_ended_is_dropped() -> None:
    server = ServerConnection()
    list(server.feed(request_frame(1, REMOTE_OPEN)))
    server.respond(1, b"")
    assert list(server.feed(encode(1, DATA, 0, b"late"))) == []


def test_a_stream_from_the_client() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, opening = client.request("s", "m", b"", streaming=True, sending=True)
    sent = opening + client.send(stream, b"one") + client.send(stream, b"") + client.end(stream)
    first, *messages = server.feed(sent)
    assert isinstance(first, Requested) and first.open
    assert [(m.data, m.closed) for m in messages if isinstance(m, Received)] == [
        (b"one", False),
        (b"", False),
        (None, True),
    ]


def test_a_stream_from_the_server() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, opening = client.request("s", "m", b"r", streaming=True)
    (event,) = server.feed(opening)
    assert isinstance(event, Requested) and not event.open and event.payload == b"r"
    events = list(client.feed(server.send(stream, b"one") + server.end(stream)))
    assert [(e.data, e.closed) for e in events if isinstance(e, Received)] == [(b"one", False), (None, True)]


def test_ids_are_odd_and_grow() -> None:
    client = ClientConnection()
    assert [client.request("s", "m", b"")[0] for _ in range(4)] == [1, 3, 5, 7]


def test_a_failure_and_a_response() -> None:
    client, server = ClientConnection(), ServerConnection()
    for _ in range(2):
        client.request("s", "m", b"")
    answers = server.fail(1, 5, 'container "x": not found') + server.respond(3, b"payload")
    failed, responded = client.feed(answers)
    assert isinstance(failed, Responded) and (failed.code, failed.message) == (5, 'container "x": not found')
    assert isinstance(responded, Responded) and (responded.code, responded.payload) == (0, b"payload")


def test_a_response_has_a_status_for_clients_that_insist_on_one() -> None:
    (frame,) = FrameParser().feed(ServerConnection().respond(1, b"payload"))
    response = Response.FromString(frame.data or b"")
    assert response.HasField("status") and response.payload == b"payload"


def test_a_text_that_is_no_unicode_or_too_long_still_arrives() -> None:
    client, server = ClientConnection(), ServerConnection()
    client.request("s", "m", b"")
    (event,) = client.feed(server.fail(1, 2, "\udcff" * MAX_DATA))
    assert isinstance(event, Responded) and event.message.startswith("\\udcff\\udcff")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        encode(2, RESPONSE, 0, b""),
        encode(3, RESPONSE, 0, b""),
        encode(1, REQUEST, 0, b""),
        encode(1, RESPONSE, 0, b"\xff\xff"),
    ],
    ids=["http", "even id", "id never used", "request", "no message"],
)
def test_a_client_gives_up_on_garbage(answer: bytes) -> None:
    client = ClientConnection()
    client.request("s", "m", b"")
    with pytest.raises(ProtocolError):
        list(client.feed(answer))


def test_a_call_given_up_is_told_and_answered() -> None:
    client, server = ClientConnection(), ServerConnection()
    stream, opening = client.request("s", "m", b"")
    event, given_up = server.feed(opening + client.cancel(stream))
    assert isinstance(event, Requested) and isinstance(given_up, GivenUp) and given_up.stream == stream
    (responded,) = client.feed(given_up.answer)
    assert isinstance(responded, Responded) and responded.code == 0 and responded.stream == 3


def test_no_data_on_an_empty_close() -> None:
    (frame,) = FrameParser().feed(ServerConnection().end(1))
    assert frame.flags == REMOTE_CLOSED | NO_DATA and frame.data == b""

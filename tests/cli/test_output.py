"""Tables, sizes, ages, pairs and signals of the command line; messages as JSON."""

from __future__ import annotations

import signal
import time

import pytest

from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.types.types_pb2 import Envelope, Mount
from wherry.api.wellknown_pb2 import Any, Timestamp
from wherry.cli import operands, table
from wherry.client.documents import document, rfc3339
from wherry.errors import Error, InvalidArgument, NotFound


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (1 << 60, "1024.0 PiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert table.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (-100, "just now"),
        (1.5, "1 second ago"),
        (59, "59 seconds ago"),
        (61, "1 minute ago"),
        (7300, "2 hours ago"),
        (86400 * 3 + 10, "3 days ago"),
        (86400 * 800, "2 years ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert table.ago(time.time_ns() - int(seconds * 1e9)) == text
    assert table.ago(None) == ""


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    made = table.Table("NAME", "SIZE", "REST", right=(1,))
    made.add("a", "1", "x")
    made.add("longer", "1000", "")
    made.print()
    assert capsys.readouterr().out == "NAME    SIZE  REST\na          1  x\nlonger  1000  -\n"


def test_text_that_moves_no_cursor() -> None:
    assert table.printable("a\x1b[2J\n\tü…") == "a\\x1b[2J\\n\\tü…"
    assert table.printable("\udcff") == "\\udcff"
    assert table.shortened("abcdef", 4) == "abc…"
    assert table.shortened("abcd", 4) == "abcd"
    assert table.short_digest("sha256:" + "ab" * 32) == "sha256:abababababab"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("KILL", 9),
        ("sigterm", signal.SIGTERM),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("RTMIN+3", signal.SIGRTMIN + 3),
        ("rtmax-1", signal.SIGRTMAX - 1),
        ("64", 64),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert operands.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "-9", "NO", "RTMIN+99", "RTMIN-1", "RTMIN+", "RTMAX+1", "SIG", "9.0"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(InvalidArgument, match="signal "):
        operands.signal_number(text)


def test_pairs() -> None:
    assert operands.pairs(["a=b", "c=", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}
    for word in ("a", "=b", ""):
        with pytest.raises(InvalidArgument, match="KEY=VALUE"):
            operands.pairs([word])


def test_each_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []

    def act(name: str) -> None:
        if name == "bad":
            raise NotFound("it")
        done.append(name)

    assert operands.each(["a", "bad", "b"], act) == 1
    assert done == ["a", "b"]
    assert capsys.readouterr().err == "wherry: it: not found\n"
    assert operands.each([], act) == 0


def test_a_message_is_a_document() -> None:
    event = events_pb2.TaskCreate(container_id="c", rootfs=[Mount(type="bind", options=["ro"])])
    envelope = Envelope(timestamp=Timestamp(seconds=1, nanos=5000), namespace="n", event=typeurl.pack(event))
    made = document(envelope)
    assert made["timestamp"] == "1970-01-01T00:00:01.000005Z"
    assert made["topic"] == ""
    assert made["event"]["type"] == "containerd.events.TaskCreate"
    value = made["event"]["value"]
    assert (value["container_id"], value["pid"], value["io"]) == ("c", 0, None)
    assert value["rootfs"] == [{"type": "bind", "source": "", "target": "", "options": ["ro"]}]


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        (Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b'{"a":1}'), {"a": 1}),
        (Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{"), "ew=="),
        (Any(type_url="nobody.knows.This", value=b"\0\1"), "AAE="),
        (Any(type_url="containerd.events.TaskOOM", value=b"\xff"), "/w=="),
        (Any(type_url="containerd.runc.v1.Options", value=b""), None),
    ],
)
def test_what_is_packed(packed: Any, value: object) -> None:
    made = document(Envelope(event=packed))["event"]
    assert made["type"] == packed.type_url
    if value is not None:
        assert made["value"] == value
    else:
        assert made["value"]["binary_name"] == ""


def test_times() -> None:
    assert rfc3339(Timestamp()) is None
    assert rfc3339(Timestamp(seconds=typeurl.ZERO_SECONDS)) is None
    assert rfc3339(Timestamp(seconds=1700000000)) == "2023-11-14T22:13:20Z"


def test_errors_are_one_line() -> None:
    assert "\n" not in str(Error("x"))

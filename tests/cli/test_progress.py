"""The lines of a transfer's progress."""

from __future__ import annotations

import io
from typing import Any

import pytest

from wherry.api.types.transfer.transfer_pb2 import Progress
from wherry.cli.progress import Bars

DIGITS = "0123456789abcdef" * 4


class Screen:
    """Bars on a window of a size, at a time of the test's choice."""

    def __init__(self, columns: int = 100, rows: int = 24, verb: str = "Pulling") -> None:
        self.now = 0.0
        self.window = (columns, rows)
        self.file = io.StringIO()
        self.bars = Bars(self.file, verb, "Pulled", "an/image:1", lambda: self.now, lambda: self.window)

    def event(self, event: str, name: str = "", **fields: Any) -> None:
        self.now += 1
        self.bars(Progress(event=event, name=name, **fields))

    def lines(self, **how: Any) -> list[str]:
        columns, rows = self.window
        return self.bars.lines(columns - 1, rows - 1, **how)


def layer(number: int) -> str:
    return f"layer-sha256:{number:012}{DIGITS[12:]}"


def test_a_layer_from_waiting_to_complete() -> None:
    screen = Screen()
    screen.event("Resolving from x")
    assert screen.lines() == ["Pulling an/image:1: Resolving from x"]
    screen.event("waiting", layer(1), total=4 << 20)
    screen.event("downloading", "manifest-sha256:" + DIGITS, progress=1, total=2)
    assert screen.lines()[1:] == ["000000000001: Waiting"]
    screen.event("downloading", layer(1), progress=1 << 20, total=4 << 20)
    screen.event("downloading", layer(1), progress=2 << 20, total=4 << 20)
    (line,) = screen.lines()[1:]
    assert line.startswith("000000000001: Downloading [=")
    assert line.endswith("     2.0 MiB/4.0 MiB     1.0 MiB/s")
    bar = line[line.index("[") + 1 : line.index("]")]
    assert len(bar) // 2 == len(bar.rstrip())
    assert len(line) <= 99
    screen.event("complete", layer(1), progress=4 << 20, total=4 << 20)
    assert screen.lines()[1:] == ["000000000001: Download complete"]
    screen.event("extracting", layer(1), progress=4 << 20, total=4 << 20)
    assert screen.lines()[1:] == ["000000000001: Extracting"]
    screen.event("extracted", layer(1))
    assert screen.lines()[1:] == ["000000000001: Pull complete"]
    screen.event("something new", layer(1))
    assert screen.lines(ended=True) == ["Pulled an/image:1: 4.0 MiB in 9.0 s", "000000000001: something new"]


def test_a_push_has_words_of_its_own() -> None:
    screen = Screen(verb="Pushing")
    screen.event("complete", layer(1))
    screen.event("already exists", layer(2))
    assert screen.lines()[1:] == ["000000000001: Pushed", "000000000002: Layer already exists"]


@pytest.mark.parametrize("columns", [200, 100, 73, 72, 60, 46, 45, 30, 14, 5, 2])
def test_no_line_is_wider_than_the_window(columns: int) -> None:
    screen = Screen(columns)
    for number in range(3):
        for progress in (0, 3 << 30, 1021 << 30):
            screen.event("downloading", layer(number), progress=progress, total=1022 << 30)
    screen.event("waiting", layer(3))
    for line in (*screen.lines(), *screen.lines(ended=True)):
        assert len(line) < columns
    if 30 <= columns <= 72:
        assert "99%" in screen.lines()[1]


def test_more_layers_than_rows() -> None:
    screen = Screen(rows=8)
    for number in range(30):
        screen.event(
            "extracted" if number < 10 else "downloading" if number < 13 else "waiting", layer(number), total=9
        )
    lines = screen.lines()
    assert len(lines) == 7
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"{number:012}" for number in range(10, 15)]
    assert lines[-1] == "30 layers: 10 done, 17 waiting"
    assert len(screen.lines(ended=True)) == 31


def test_what_was_drawn_is_drawn_over_also_when_the_window_became_narrower() -> None:
    screen = Screen(80)
    screen.event("x" * 40)
    screen.event("waiting", layer(1))
    written = screen.file.getvalue()
    assert written.count("\x1b[1A\r\x1b[J") == 1
    assert not written.endswith("A")
    screen.window = (20, 24)
    screen.event("complete", layer(1))
    # The first line, of 60 columns, takes three of these.
    assert "\x1b[5A\r\x1b[J" in screen.file.getvalue()[len(written) :]


def test_names_do_not_move_the_cursor() -> None:
    screen = Screen()
    screen.event("\x1b[2J", "docker.io/x")
    screen.event("\x1b[2J", layer(1))
    screen.event("waiting", "registry-1.docker.io/x@sha256:" + DIGITS)
    assert len(screen.lines()) == 2
    assert all(line.isprintable() for line in screen.lines())


def test_a_transfer_that_did_not_begin_draws_nothing() -> None:
    screen = Screen()
    with pytest.raises(ValueError, match="none"), screen.bars:
        raise ValueError("none")
    assert screen.file.getvalue() == ""


def test_the_last_event_of_many_is_drawn_in_time() -> None:
    import asyncio

    async def run() -> None:
        screen = Screen()
        screen.event("first")
        screen.now += 0.01
        screen.bars(Progress(event="second"))
        screen.bars(Progress(event="third"))
        assert "third" not in screen.file.getvalue()
        await asyncio.sleep(0.2)
        assert "third" in screen.file.getvalue()
        assert "second" not in screen.file.getvalue()

    asyncio.run(run())

"""The progress of a transfer, as its reader wants it: bars on a terminal, lines on a dumb one, JSON for programs.

On a terminal there is a line for the whole and one for each layer, drawn over again in place.
"""

from __future__ import annotations

import os
import sys
import time

from wherry.cli.table import printable, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from types import TracebackType
    from typing import Protocol, TextIO

    from wherry.client.transfer import Progress

    class Shown(Protocol):
        """Takes a transfer's events while it is used with ``with``."""

        def __call__(self, progress: Progress) -> None: ...
        def __enter__(self) -> Shown: ...
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
        ) -> None: ...


#: Seconds between two drawings.
_INTERVAL = 0.1

#: Seconds over which a speed is taken.
_SPEED_OVER = 3.0

#: Columns that a line with a bar needs, and one with figures.
_WITH_BAR = 72
_WITH_FIGURES = 45

#: What is told of a blob, in Docker's words; of a push, where they are others.
_WORDS = {
    "waiting": "Waiting",
    "downloading": "Downloading",
    "uploading": "Pushing",
    "pushing": "Pushing",
    "verifying": "Verifying",
    "complete": "Download complete",
    "already exists": "Already exists",
    "extracting": "Extracting",
    "extracted": "Pull complete",
}
_PUSH_WORDS = {"complete": "Pushed", "already exists": "Layer already exists"}
_COUNTED = frozenset(("downloading", "uploading", "pushing"))
_DONE = frozenset(("complete", "already exists", "extracted"))

#: Blobs that are too small to have lines: their names begin so.
_SMALL = ("manifest-", "index-", "config-", "attestation-")


def show(options: argparse.Namespace, verb: str, past: str, what: str) -> Shown:
    """Return what shows the progress of "Pulling" that ends as "Pulled", of an image's name or several."""
    if options.json:
        return _JsonLines()
    if options.quiet or not sys.stderr.isatty():
        return _Nothing()
    if os.environ.get("TERM", "dumb") == "dumb":
        return _PlainLines(verb)
    return Bars(sys.stderr, verb, past, what)


class _Nothing:
    def __call__(self, progress: Progress) -> None:
        return

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return


class _JsonLines(_Nothing):
    def __call__(self, progress: Progress) -> None:
        import json

        from wherry.client.documents import document

        print(json.dumps(document(progress), ensure_ascii=False), flush=True)


class _PlainLines(_Nothing):
    """A line for each change of a state."""

    def __init__(self, verb: str) -> None:
        self._words = _words(verb)
        self._last: dict[str, str] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.name.startswith(_SMALL) or self._last.get(progress.name) == progress.event:
            return
        self._last[progress.name] = progress.event
        word = self._words.get(progress.event, printable(progress.event))
        print(f"{_short(progress.name)}: {word}" if progress.name else word, file=sys.stderr)


def _words(verb: str) -> dict[str, str]:
    return {**_WORDS, **_PUSH_WORDS} if verb == "Pushing" else _WORDS


def _short(name: str) -> str:
    """Return twelve digits of the digest in a blob's name, or another name as it is."""
    return name.partition(":")[2][:12] if _is_blob(name) else printable(name)


def _is_blob(name: str) -> bool:
    """Tell whether a name is a blob's, as containerd makes them: "layer-sha256:…"."""
    kind, _minus, digest = name.partition("-")
    algorithm, _colon, encoded = digest.partition(":")
    return kind.isalpha() and algorithm.isalnum() and len(encoded) >= 32


class _Blob:
    """A blob's state, and how fast it changes."""

    def __init__(self, name: str) -> None:
        self.short = _short(name)
        self.event = ""
        self.progress = 0
        self.total = 0
        self._samples: list[tuple[float, int]] = []

    def update(self, progress: Progress, now: float) -> None:
        if progress.event != self.event or progress.progress < self.progress:
            self._samples.clear()
        self.event = progress.event
        self.progress = progress.progress
        self.total = progress.total or self.total
        self._samples.append((now, self.progress))
        while len(self._samples) > 2 and now - self._samples[0][0] > _SPEED_OVER:
            del self._samples[0]

    @property
    def speed(self) -> float:
        """Bytes a second of late; 0 if that can't be told yet."""
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def line(self, width: int, words: dict[str, str]) -> str:
        """Return its line, in at most `width` columns."""
        word = words.get(self.event, printable(self.event))
        # An extraction that tells all of its bytes from the beginning tells nothing by them.
        counted = self.event in _COUNTED or 0 < self.progress < self.total
        if self.event in _DONE or not self.total or not counted:
            return f"{self.short}: {word}"[:width]
        share = min(1.0, self.progress / self.total)
        percent = f"{int(share * 100)}%"
        figures = f"{size(self.progress)}/{size(self.total)}"
        if width < _WITH_FIGURES:
            return f"{self.short}: {word} {percent}"[:width]
        if width < _WITH_BAR:
            return f"{self.short}: {word:<11} {percent:>4}  {figures}"[:width]
        speed = f"{size(int(self.speed))}/s" if self.speed else ""
        right = f"{figures:>19}  {speed:>12}"
        room = min(50, width - len(f"{self.short}: {word:<11} []  {right}"))
        filled = int(share * room)
        bar = ("=" * max(0, filled - 1) + (">" if filled else "")).ljust(room)
        return f"{self.short}: {word:<11} [{bar}]  {right}"[:width]


class Bars:
    """Lines that are drawn in place on a terminal."""

    def __init__(
        self,
        file: TextIO,
        verb: str,
        past: str,
        what: str,
        clock: Callable[[], float] = time.monotonic,
        window: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """`window` tells the terminal's columns and rows, which may change at any time."""
        self._file = file
        self._verb = verb
        self._past = past
        self._what = printable(what)
        self._clock = clock
        self._window = window or (lambda: os.get_terminal_size(file.fileno()))
        self._words = _words(verb)
        self._status = ""
        self._blobs: dict[str, _Blob] = {}
        self._drawn: list[str] = []
        self._begun = clock()
        self._next = 0.0
        self._planned = False
        self._ended = False

    def __call__(self, progress: Progress) -> None:
        name = progress.name
        if not _is_blob(name):
            self._status = printable(progress.event)
        elif not name.startswith(_SMALL):
            self._blobs.setdefault(name, _Blob(name)).update(progress, self._clock())
        self._draw_soon()

    def _draw_soon(self) -> None:
        """Draw now, or when it is time again: an event that is the last for long is not to wait for the next."""
        rest = self._next - self._clock()
        if rest <= 0:
            self._draw()
        elif not self._planned:
            import asyncio

            self._planned = True
            asyncio.get_running_loop().call_later(rest, self._draw_planned)

    def _draw_planned(self) -> None:
        self._planned = False
        if not self._ended:
            self._draw()

    def __enter__(self) -> Shown:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for blob in self._blobs.values():
                if blob.event == "complete" and self._verb == "Pulling":
                    blob.event = "extracted"  # by a daemon that does not tell so
        self._ended = True
        if error is None or self._drawn:  # else it has not begun: a daemon without the service
            self._draw(ended=error is None)

    def _draw(self, *, ended: bool = False) -> None:
        self._next = self._clock() + _INTERVAL
        columns, rows = self._window()
        columns, rows = columns or 80, rows or 24
        lines = self.lines(columns - 1, rows - 1, ended=ended)
        text = []
        if self._drawn:
            # The terminal has broken what was drawn anew if it has become narrower since.
            height = sum(max(1, -(-len(line) // columns)) for line in self._drawn)
            text.append(f"\x1b[{height}A\r\x1b[J")
        text += [line + "\n" for line in lines]
        self._drawn = lines
        self._file.write("".join(text))
        self._file.flush()

    def lines(self, width: int, height: int, *, ended: bool = False) -> list[str]:
        """Return what is to be seen: all layers if there is room, else first what something is done to."""
        blobs = list(self._blobs.values())
        if ended:
            seconds = self._clock() - self._begun
            moved = sum(blob.total for blob in blobs if blob.event != "already exists")
            amount = f" {size(moved)}" if moved else ""
            head = f"{self._past} {self._what}:{amount} in {seconds:.1f} s"
        else:
            head = f"{self._verb} {self._what}{': ' if self._status else ''}{self._status}"
        if len(blobs) + 1 <= height or ended:
            return [head[:width], *(blob.line(width, self._words) for blob in blobs)]
        done = [blob for blob in blobs if blob.event in _DONE]
        waiting = [blob for blob in blobs if blob.event == "waiting"]
        moving = [blob for blob in blobs if blob not in done and blob not in waiting]
        rest = f"{len(blobs)} layers: {len(done)} done, {len(waiting)} waiting"
        room = max(0, height - 2)
        return [head[:width], *(blob.line(width, self._words) for blob in (*moving, *waiting)[:room]), rest[:width]]

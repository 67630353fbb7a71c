"""Output: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_AGES = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def add_listing_flags(parser: argparse.ArgumentParser, *, quiet: str) -> None:
    """Add -q and --json; `quiet` says what the former prints."""
    parser.add_argument("-q", "--quiet", action="store_true", help=f"print {quiet} only, one a line")
    parser.add_argument("--json", action="store_true", help="print a JSON list, for programs")


def show(
    options: argparse.Namespace,
    things: Sequence[T],
    name: Callable[[T], str],
    document: Callable[[T], Any],
    headings: Sequence[str],
    row: Callable[[T], Sequence[str]],
    *,
    right: Sequence[int] = (),
) -> int:
    """Print a list as the listing flags say: names, documents, or a table. Returns the exit status."""
    if options.json and options.quiet:
        raise InvalidArgument("--quiet and --json: either may be given, not both")
    if options.json:
        print_json([document(thing) for thing in things])
    elif options.quiet:
        for thing in things:
            print(name(thing))
    else:
        table = Table(*headings, right=right)
        for thing in things:
            table.add(*row(thing))
        table.print()
    return 0


class Table:
    """Rows under headings, each column as wide as it must be."""

    def __init__(self, *headings: str, right: Sequence[int] = ()) -> None:
        """`right` are the numbers of the columns whose text stands on the right: figures."""
        self._rows: list[tuple[str, ...]] = [headings]
        self._right = right

    def add(self, *cells: str) -> None:
        """Add a row; an empty cell is shown as "-"."""
        self._rows.append(tuple(printable(cell) or "-" for cell in cells))

    def print(self) -> None:
        """Print it on standard output."""
        columns: list[list[str]] = []
        for number, column in enumerate(zip(*self._rows, strict=True)):
            width = max(map(len, column))
            columns.append([cell.rjust(width) if number in self._right else cell.ljust(width) for cell in column])
        print("\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True)))


def print_json(value: Any) -> None:
    """Print a value as JSON, indented."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()


def printable(text: str) -> str:
    """Return a text without what would move the cursor: names and labels may be any strings."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def shortened(text: str, width: int) -> str:
    """Return a text cut to a width, with a sign that it was."""
    return text if len(text) <= width else text[: width - 1] + "…"


def short_digest(digest: str) -> str:
    """Return a digest's algorithm and first twelve digits."""
    algorithm, colon, encoded = digest.partition(":")
    return algorithm + colon + encoded[:12]


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(count)
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def ago(nanoseconds: int | None) -> str:
    """Return how long ago a moment was, in its greatest unit; "" for none."""
    if nanoseconds is None:
        return ""
    seconds = max(0, (time.time_ns() - nanoseconds) // 1_000_000_000)
    for length, name in _AGES:
        if seconds >= length:
            count = seconds // length
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def joined(labels: Mapping[str, str]) -> str:
    """Return labels in one line."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))

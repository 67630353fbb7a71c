"""Durations as Go writes them: ``100ms``, ``1h30m``, ``-1.5s``. https://pkg.go.dev/time#ParseDuration"""

from __future__ import annotations

import re
from fractions import Fraction

from wherry.errors import InvalidArgument

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5, the micro sign
    "μs": 1_000,  # U+03BC, the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_LIMIT = 1 << 63


def parse(text: str) -> int:
    """Return a duration in nanoseconds, cut to whole ones. InvalidArgument for what is none, or beyond 292 years."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total, at = 0, 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            break
        total += int(Fraction(part[1]) * _UNITS[part[2]])
        at = part.end()
    if not rest or at < len(rest):
        raise InvalidArgument(f'invalid duration "{text}": numbers with units are wanted, as in 100ms or 1h30m')
    if total >= _LIMIT + (sign < 0):
        raise InvalidArgument(f'invalid duration "{text}": it is longer than 292 years')
    return sign * total


def text(nanoseconds: int) -> str:
    """Return a duration as its shortest text in one unit: ``0s``, ``100ms``, ``90s``."""
    for unit in ("h", "m", "s", "ms", "us"):
        if nanoseconds % _UNITS[unit] == 0 and (nanoseconds or unit == "s"):
            return f"{nanoseconds // _UNITS[unit]}{unit}"
    return f"{nanoseconds}ns"

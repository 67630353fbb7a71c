"""Descriptors by the range. close_range(2)."""

from __future__ import annotations

from wherry.linux import foreign
from wherry.linux.libc import check, libc

_SYS_CLOSE_RANGE = 436  # the same on every architecture

_LAST = (1 << 32) - 1

_CLOEXEC = 4


def close_range(first: int, last: int = _LAST, *, on_exec: bool = False) -> None:
    """Close the descriptors of a range, both ends included, that are open; `on_exec` only then. OSError. Linux 5.11."""
    if first <= last:
        number, flags = foreign.c_long(_SYS_CLOSE_RANGE), foreign.c_uint(_CLOEXEC if on_exec else 0)
        check(libc.syscall(number, foreign.c_uint(first), foreign.c_uint(last), flags))

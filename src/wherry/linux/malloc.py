"""glibc's allocator told what a process is like: mallopt(3)."""

from __future__ import annotations

from wherry.linux.libc import libc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

#: Bytes from which on a block is mapped by itself, and given back when it is freed; and of what is free at the end.
_THRESHOLD = 512 << 10


def give_back() -> None:
    """Have memory that is freed given back to the system: for a process whose threads hand large buffers around.

    By itself glibc keeps a heap for every thread, and keeps blocks of the sizes that it has seen freed. Where the C
    library is another one nothing happens.
    """
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _THRESHOLD), (_M_TRIM_THRESHOLD, _THRESHOLD)):
        mallopt(parameter, value)

"""The C library, for system calls that Python has no function for."""

from __future__ import annotations

import os

from wherry.linux import foreign

#: Releases the interpreter's lock around each call; errno is kept per thread.
libc = foreign.CDLL(None, use_errno=True)


def check(result: int, *names: str) -> int:
    """Return a system call's result, or raise its errno's OSError, with up to two file names, if it is negative."""
    if result < 0:
        error = foreign.get_errno()
        if len(names) > 1:
            raise OSError(error, os.strerror(error), names[0], None, names[1])
        raise OSError(error, os.strerror(error), *names)
    return result

"""openat2(2): opening a path that cannot lead out of the directory it starts from, whatever links lie on its way."""

from __future__ import annotations

import os

from wherry.linux import foreign
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import AnyStr

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437  # the same on every architecture


class _OpenHow(foreign.Structure):
    _fields_ = (("flags", foreign.c_uint64), ("mode", foreign.c_uint64), ("resolve", foreign.c_uint64))


def openat2(dir_fd: int, path: AnyStr, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Call openat2(2) and return the descriptor. Raises OSError with the path as its file name. Linux 5.6."""
    name = os.fsencode(path)
    how = _OpenHow(flags, mode, resolve)
    while True:
        result: int = libc.syscall(
            foreign.c_long(_SYS_OPENAT2),
            foreign.c_int(dir_fd),
            foreign.c_char_p(name),
            foreign.byref(how),
            foreign.c_size_t(foreign.sizeof(how)),
        )
        try:
            return check(result, os.fsdecode(name))
        except (BlockingIOError, InterruptedError):
            # EAGAIN: a rename raced with ".." in the path; the manual page says to try again.
            continue


def open_in_root(root_fd: int, path: AnyStr, flags: int, mode: int = 0) -> int:
    """Open a path as if root_fd were the root directory: absolute links and ".." stay inside it. Raises OSError."""
    return openat2(root_fd, path, flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)

"""Mounts that are nowhere: a file system tree as a descriptor, gone with it. fsopen(2), fsmount(2), open_tree(2)."""

from __future__ import annotations

import ctypes
import os

from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# The same on every architecture.
_SYS_OPEN_TREE = 428
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432

_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_MOUNT_ATTR_RDONLY = 1


def clone_tree(path: str) -> int:
    """Return a descriptor of a bind mount of a directory. OSError if the kernel refuses."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    return _syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags)


def overlay(lowerdirs: Sequence[str]) -> int:
    """Return a descriptor of a read-only overlay of directories, the top one first. OSError if the kernel refuses."""
    context = _syscall(_SYS_FSOPEN, b"overlay", _CLOEXEC)
    try:
        # Before Linux 6.5 a value holds 256 bytes, and there is no lowerdir+: the caller has another way then.
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, b"lowerdir", os.fsencode(":".join(lowerdirs)), 0)
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, b"ro", None, 0)
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_SYS_FSMOUNT, context, _CLOEXEC, _MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    converted = [
        ctypes.c_char_p(argument) if argument is None or isinstance(argument, bytes) else ctypes.c_long(argument)
        for argument in arguments
    ]
    return check(int(libc.syscall(ctypes.c_long(number), *converted)))

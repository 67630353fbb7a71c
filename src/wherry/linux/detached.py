"""Mounts that are nowhere: a file system tree as a descriptor, gone with it unless it is put somewhere.

fsopen(2), fsmount(2), open_tree(2), mount_setattr(2), move_mount(2).
"""

from __future__ import annotations

import os
from struct import Struct

from wherry.linux import foreign
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# The same on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_OPEN_TREE_CLONE = 1
_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

# <linux/mount.h>
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

#: struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
_MOUNT_ATTR = Struct("4Q")


def clone_tree(path: str) -> int:
    """Return a descriptor of a bind mount of a directory. OSError if the kernel refuses."""
    return open_tree(path, recursive=True)


def open_tree(path: str, *, dir_fd: int = _AT_FDCWD, recursive: bool) -> int:
    """Return a descriptor of a bind mount of a file or directory, "" being dir_fd itself; recursive with the mounts
    below it. Raises OSError with the path as its file name."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (_AT_RECURSIVE if recursive else 0)
    if not path:
        flags |= _AT_EMPTY_PATH
    return check(_call(_SYS_OPEN_TREE, dir_fd, os.fsencode(path), flags), path)


def set_attributes(
    fd: int, *, set: int = 0, clear: int = 0, propagation: int = 0, userns: int = -1, recursive: bool = False
) -> None:
    """Change a mount's attributes (MOUNT_ATTR_*, MS_PRIVATE and its like), or those of all its tree. Raises OSError.

    Bits of MOUNT_ATTR__ATIME are one field: whoever sets one clears the field. Linux 5.12.
    """
    attributes = _MOUNT_ATTR.pack(set, clear, propagation, max(userns, 0))
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, attributes, _MOUNT_ATTR.size)


def attach(fd: int, target: int) -> None:
    """Put a detached mount on a file or directory, given by its descriptor. Raises OSError."""
    _syscall(_SYS_MOVE_MOUNT, fd, b"", target, b"", _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def new_filesystem(type: str, options: Sequence[str] = (), attributes: int = 0) -> int:
    """Return a descriptor of a new file system of a type, with options as `name` or `name=value`. Raises OSError."""
    context = _syscall(_SYS_FSOPEN, os.fsencode(type), _CLOEXEC)
    try:
        for option in options:
            name, is_value, value = option.partition("=")
            if is_value:
                _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_STRING, os.fsencode(name), os.fsencode(value), 0)
            else:
                _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, os.fsencode(name), None, 0)
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_SYS_FSMOUNT, context, _CLOEXEC, attributes)
    finally:
        os.close(context)


def overlay(lowerdirs: Sequence[str]) -> int:
    """Return a descriptor of a read-only overlay of directories, the top one first. OSError if the kernel refuses."""
    # Before Linux 6.5 a value holds 256 bytes, and there is no lowerdir+: the caller has another way then.
    return new_filesystem("overlay", [f"lowerdir={':'.join(lowerdirs)}", "ro"], MOUNT_ATTR_RDONLY)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    return check(_call(number, *arguments))


def _call(number: int, *arguments: int | bytes | None) -> int:
    converted = [
        foreign.c_char_p(argument) if argument is None or isinstance(argument, bytes) else foreign.c_long(argument)
        for argument in arguments
    ]
    return int(libc.syscall(foreign.c_long(number), *converted))

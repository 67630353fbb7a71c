"""Subvolumes of btrfs: made, copied, removed, asked for their number. <linux/btrfs.h>, btrfs-subvolume(8).

A subvolume is a directory that is a tree of its own; a snapshot is a subvolume that begins with what another one has,
and shares its blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from wherry.linux.statfs import BTRFS_SUPER_MAGIC, filesystem_type

_SNAP_DESTROY = 0x5000940F
_INO_LOOKUP = 0xD0009412
_SNAP_CREATE_V2 = 0x50009417
_SUBVOL_CREATE_V2 = 0x50009418
_SUBVOL_GETFLAGS = 0x80089419
_SUBVOL_SETFLAGS = 0x4008941A

_SUBVOL_RDONLY = 1 << 1

#: The inode of every subvolume's top directory.
_FIRST_FREE_OBJECTID = 256

#: struct btrfs_ioctl_vol_args{,_v2} and btrfs_ioctl_ino_lookup_args have a page each.
_ARGUMENTS_SIZE = 4096
#: fd, transid, flags and a union of 32 bytes; then the name.
_V2_HEAD = struct.Struct("=qQQ32x")
_V1_HEAD = struct.Struct("=q")
_LOOKUP_HEAD = struct.Struct("=QQ")
_FLAGS = struct.Struct("=Q")

#: BTRFS_NAME_LEN.
_NAME_MAX = 255

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_btrfs(fd: int) -> bool:
    """Say whether a descriptor's file lies on btrfs. Raises OSError."""
    return filesystem_type(fd) & 0xFFFFFFFF == BTRFS_SUPER_MAGIC


def is_subvolume(fd: int) -> bool:
    """Say whether a descriptor's directory is a subvolume's top. Raises OSError."""
    return os.fstat(fd).st_ino == _FIRST_FREE_OBJECTID and is_btrfs(fd)


def create(name: str, dir_fd: int) -> None:
    """Make an empty subvolume in a directory. Raises OSError. Linux 3.6."""
    _call(dir_fd, _SUBVOL_CREATE_V2, _V2_HEAD.pack(0, 0, 0), name)


def snapshot(source: int, name: str, dir_fd: int, *, read_only: bool = False) -> None:
    """Make a subvolume in a directory that has what a subvolume (a descriptor of its top) has now. Raises OSError."""
    _call(dir_fd, _SNAP_CREATE_V2, _V2_HEAD.pack(source, 0, _SUBVOL_RDONLY if read_only else 0), name)


def is_read_only(fd: int) -> bool:
    """Say whether nothing in a subvolume can be changed. Raises OSError."""
    flags = bytearray(_FLAGS.size)
    fcntl.ioctl(fd, _SUBVOL_GETFLAGS, flags)
    return bool(_FLAGS.unpack(flags)[0] & _SUBVOL_RDONLY)


def make_read_only(fd: int) -> None:
    """Let nothing in a subvolume be changed any more, wherever it is mounted. Raises OSError."""
    fcntl.ioctl(fd, _SUBVOL_SETFLAGS, bytearray(_FLAGS.pack(_SUBVOL_RDONLY)))


def subvolume_id(fd: int) -> int:
    """Return the number of the subvolume that a descriptor's file is in: mount(8)'s option subvolid. Raises OSError."""
    arguments = bytearray(_ARGUMENTS_SIZE)
    _LOOKUP_HEAD.pack_into(arguments, 0, 0, _FIRST_FREE_OBJECTID)
    fcntl.ioctl(fd, _INO_LOOKUP, arguments)
    return int(_LOOKUP_HEAD.unpack_from(arguments)[0])


def remove(name: str, dir_fd: int) -> None:
    """Remove a subvolume and those within it from a directory. Raises OSError.

    It is gone at once; the kernel frees its blocks in the background.
    """
    try:
        _call(dir_fd, _SNAP_DESTROY, _V1_HEAD.pack(0), name)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        _remove_nested(name, dir_fd)
        _call(dir_fd, _SNAP_DESTROY, _V1_HEAD.pack(0), name)


def _remove_nested(name: str, dir_fd: int) -> None:
    top = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        if is_read_only(top):
            # The entries of those within could not be taken out.
            fcntl.ioctl(top, _SUBVOL_SETFLAGS, bytearray(_FLAGS.pack(0)))
        for _path, directories, _files, fd in os.fwalk(".", dir_fd=top):
            for each in directories[:]:
                found = os.stat(each, dir_fd=fd, follow_symlinks=False)
                if found.st_ino == _FIRST_FREE_OBJECTID and stat.S_ISDIR(found.st_mode):
                    remove(each, fd)
                    directories.remove(each)
    finally:
        os.close(top)


def _call(dir_fd: int, request: int, head: bytes, name: str) -> None:
    encoded = os.fsencode(name)
    if len(encoded) > _NAME_MAX or b"/" in encoded:
        raise OSError(errno.EINVAL, "not the name of a subvolume", name)
    arguments = bytearray((head + encoded).ljust(_ARGUMENTS_SIZE, b"\0"))
    try:
        fcntl.ioctl(dir_fd, request, arguments)
    except OSError as error:
        error.filename = name
        raise

"""Owner, mode, extended attributes and times: an archive entry's, or another file's, given to a file."""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import Error, FailedPrecondition, ResourceExhausted, Unknown
from wherry.images import tar
from wherry.images.tar import ArchiveError

#: Extended attributes that steer the kernel's own file systems: no image has a say in those.
RESERVED: tuple[bytes, ...] = (b"trusted.",)
#: The same where overlayfs keeps its marks in attributes that need no privilege.
RESERVED_USER: tuple[bytes, ...] = (b"trusted.", b"user.overlay.")

#: (uid_t) -1 means "leave it" to chown(2).
_MAX_ID = 0xFFFFFFFE
_MAX_TIME = (1 << 63) - 1


def apply(
    where: bytes | int, seen: os.stat_result, entry: tar.Entry, reserved: tuple[bytes, ...], *, times: bool = True
) -> None:
    """Give a file, by its path or descriptor, what an entry says of it and lstat has not seen already.

    A symbolic link has no mode of its own. Raises OSError, ArchiveError.
    """
    by_path = not isinstance(where, int)
    mode = stat.S_IMODE(seen.st_mode)
    if seen.st_uid != entry.uid or seen.st_gid != entry.gid:
        os.chown(where, user_or_group(entry.uid), user_or_group(entry.gid), follow_symlinks=not by_path)
        mode = -1  # it may have lost its set-id bits
    if entry.xattrs:
        _set_xattrs(where, entry, reserved)
        mode = -1  # of which an ACL is a part
    if mode != entry.mode and not stat.S_ISLNK(seen.st_mode):
        os.chmod(where, entry.mode)
    if times:
        wanted = accessed_and_modified(entry)
        if wanted != (seen.st_atime_ns, seen.st_mtime_ns):
            os.utime(where, ns=wanted, follow_symlinks=not by_path)


def _set_xattrs(where: bytes | int, entry: tar.Entry, reserved: tuple[bytes, ...]) -> None:
    """Set an entry's extended attributes, as far as the file system and the kind of file have any. Raises OSError."""
    for name, value in entry.xattrs.items():
        if name.startswith(reserved):
            continue
        try:
            if isinstance(where, int):
                os.setxattr(where, name, value)
            else:
                os.setxattr(where, name, value, follow_symlinks=False)
        except OSError as error:
            # A file system without extended attributes, or a kind that it or this file cannot have.
            if error.errno not in (errno.ENOTSUP, errno.EPERM) or name == b"security.capability":
                error.filename = name
                raise


def copy(source: int, target: int) -> None:
    """Give one open file the owner, extended attributes and mode of another. Raises OSError."""
    seen = os.fstat(source)
    os.fchown(target, seen.st_uid, seen.st_gid)
    copy_xattrs(source, target)
    os.fchmod(target, stat.S_IMODE(seen.st_mode))


def copy_xattrs(source: int, target: int) -> None:
    """Give one open file the extended attributes of another that it has not. Raises OSError."""
    there = os.listxattr(target)
    for name in os.listxattr(source):
        if name not in there and not os.fsencode(name).startswith(RESERVED_USER):
            os.setxattr(target, name, os.getxattr(source, name))


def user_or_group(number: int) -> int:
    """Return an id if it is one. Raises ArchiveError."""
    if not 0 <= number <= _MAX_ID:
        raise ArchiveError(f"invalid user or group id {number}")
    return number


def accessed_and_modified(entry: tar.Entry) -> tuple[int, int]:
    """Access and modification time; what the kernel cannot hold becomes the epoch, as containerd has it."""
    modified = entry.mtime if 0 <= entry.mtime <= _MAX_TIME else 0
    accessed = entry.atime if 0 <= entry.atime <= _MAX_TIME else 0
    return max(accessed, modified), modified


def failure(name: bytes, error: Exception) -> Error:
    """Return the error to raise for what went wrong with the entry of a name."""
    shown = name.decode("utf-8", "backslashreplace")
    if isinstance(error, OSError):
        what = (error.strerror or str(error)).lower()
        if error.filename is not None:
            about = os.fsdecode(error.filename)
            what += "" if shown.endswith(about) else f": {about}"
        kind: type[Error] = Unknown
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = ResourceExhausted
        elif error.errno == errno.EROFS:
            kind = FailedPrecondition
        return kind(f'layer entry "{shown}": {what}')
    if isinstance(error, OverflowError):
        return ArchiveError(f'layer entry "{shown}": number out of range')
    return ArchiveError(f'layer entry "{shown}": {error}')

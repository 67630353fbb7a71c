"""Directory trees as wholes: removed, measured, copied.

By descriptors where it matters, so that nobody can lead the work elsewhere by a symbolic link.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import AnyStr

#: Directories open at a time. A deeper tree is brought up to the top piece by piece: archives may nest thousands deep,
#: beyond what a path, the descriptors or the stack can hold.
_DEPTH = 64

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: The unit of st_blocks.
_BLOCK = 512

_FICLONE = 0x40049409


def remove(name: AnyStr, *, dir_fd: int | None = None) -> None:
    """Remove a file, or a directory with all that is in it. No error if it does not exist. Raises OSError.

    Symbolic links are removed, never followed.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:  # POSIX says EPERM for a directory, Linux EISDIR
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
        except NotADirectoryError:
            raise error from None
    try:
        empty(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def empty(fd: int) -> None:
    """Remove all that is in a directory, given by its descriptor. Raises OSError."""
    while _empty(fd, 0, fd):
        pass


def _empty(fd: int, depth: int, top: int) -> bool:
    """Empty a directory; True if something of it was put into the top directory instead."""
    moved = False
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif depth == _DEPTH:
            os.rename(name, f".removed-{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
            moved = True
        else:
            child = os.open(name, _DIRECTORY, dir_fd=fd)
            try:
                moved |= _empty(child, depth + 1, top)
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
    return moved


class Usage:
    """What a tree takes up: bytes allocated on disk, and files, each counted once however many names it has."""

    __slots__ = ("inodes", "size")

    def __init__(self, size: int = 0, inodes: int = 0) -> None:
        self.size = size
        self.inodes = inodes


def usage(path: str) -> Usage:
    """Measure a directory tree, itself included. What vanishes meanwhile is not counted. Raises OSError."""
    result = Usage()
    seen: set[tuple[int, int]] = set()
    pending = [path]
    result.size += os.lstat(path).st_blocks * _BLOCK
    result.inodes += 1
    while pending:
        try:
            entries = os.scandir(pending.pop())
        except (FileNotFoundError, NotADirectoryError):
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif status.st_nlink > 1:
                    inode = (status.st_dev, status.st_ino)
                    if inode in seen:
                        continue
                    seen.add(inode)
                result.size += status.st_blocks * _BLOCK
                result.inodes += 1
    return result


def usage_beyond(base: str, path: str) -> Usage:
    """Measure what is in a directory tree and is not, or is another, in the tree that it began as a copy of.

    A file is another if type, mode, owner, device, size or time of modification differ, a directory if mode or owner
    do. The top directories are not compared. What vanishes meanwhile is not counted. Raises OSError.
    """
    result = Usage()
    seen: set[tuple[int, int]] = set()
    pending: list[tuple[str | None, str]] = [(base, path)]
    while pending:
        below, above = pending.pop()
        before = _statuses(below) if below is not None else {}
        for name, status in _statuses(above).items():
            old = before.get(name)
            is_directory = stat.S_ISDIR(status.st_mode)
            if is_directory:
                known = below is not None and old is not None and stat.S_ISDIR(old.st_mode)
                pending.append((f"{below}/{name}" if known else None, f"{above}/{name}"))
            if old is not None and _identity(old) == _identity(status):
                continue
            inode = (status.st_dev, status.st_ino)
            if inode not in seen:
                seen.add(inode)
                result.size += status.st_blocks * _BLOCK
                result.inodes += 1
    return result


def _statuses(directory: str) -> dict[str, os.stat_result]:
    found: dict[str, os.stat_result] = {}
    try:
        entries = os.scandir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return found
    with entries:
        for entry in entries:
            try:
                found[entry.name] = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
    return found


def _identity(status: os.stat_result) -> tuple[int, ...]:
    attributes = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev)
    if stat.S_ISDIR(status.st_mode):
        return attributes
    return (*attributes, status.st_size, status.st_mtime_ns)


def copy(source: str, target: str) -> None:
    """Copy what is in one directory, and its own attributes, to another that is empty. Raises OSError.

    Nothing is lost: owners, modes, times, extended attributes, hard links, holes, devices, sockets. Where the file
    system can share data between files (FICLONE), it does.
    """
    with _Directories(source, target) as (old, new):
        _Copy().directory(old, new)


class _Directories:
    """A context in which two directories are open."""

    def __init__(self, first: str, second: str, first_fd: int | None = None, second_fd: int | None = None) -> None:
        self._first = os.open(first, _DIRECTORY, dir_fd=first_fd)
        try:
            self._second = os.open(second, _DIRECTORY, dir_fd=second_fd)
        except BaseException:
            os.close(self._first)
            raise

    def __enter__(self) -> tuple[int, int]:
        return self._first, self._second

    def __exit__(self, *_error: object) -> None:
        os.close(self._first)
        os.close(self._second)


class _Copy:
    def __init__(self) -> None:
        self._links: dict[tuple[int, int], str] = {}
        self._top = -1
        self._share = True

    def directory(self, old: int, new: int, path: str = "") -> None:
        if self._top < 0:
            self._top = new
        for name in os.listdir(old):
            self._entry(name, old, new, f"{path}/{name}" if path else name)
        _copy_attributes(old, new, os.fstat(old))

    def _entry(self, name: str, old: int, new: int, path: str) -> None:
        status = os.stat(name, dir_fd=old, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(name, 0o700, dir_fd=new)
            with _Directories(name, name, old, new) as (below, made):
                self.directory(below, made, path)
            return
        if status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            first = self._links.setdefault(inode, path)
            if first != path:
                os.link(first, name, src_dir_fd=self._top, dst_dir_fd=new, follow_symlinks=False)
                return
        if stat.S_ISREG(mode):
            self._file(name, old, new)
            return
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
        else:
            os.mknod(name, mode, status.st_rdev, dir_fd=new)
        os.chown(name, status.st_uid, status.st_gid, dir_fd=new, follow_symlinks=False)
        made_path = f"/proc/self/fd/{new}/{name}"
        old_path = f"/proc/self/fd/{old}/{name}"
        for xattr in _list_xattrs(old_path):
            value = os.getxattr(old_path, xattr, follow_symlinks=False)
            os.setxattr(made_path, xattr, value, follow_symlinks=False)
        if not stat.S_ISLNK(mode):
            os.chmod(name, stat.S_IMODE(mode), dir_fd=new)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=new, follow_symlinks=False)

    def _file(self, name: str, old: int, new: int) -> None:
        source = os.open(name, _FILE, dir_fd=old)
        try:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=new)
            try:
                status = os.fstat(source)
                if status.st_size and not self._shared(source, target):
                    copy_data(source, target, status.st_size)
                _copy_attributes(source, target, status)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _shared(self, source: int, target: int) -> bool:
        if self._share:
            try:
                fcntl.ioctl(target, _FICLONE, source)
                return True
            except OSError:  # not this file system; no use asking again for every file
                self._share = False
        return False


def copy_data(source: int, target: int, size: int) -> None:
    """Copy the first `size` octets of one open file to another, empty one, holes as holes. Raises OSError."""
    start = 0
    while start < size:
        try:
            start = os.lseek(source, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole up to the end
                raise
            break
        end = os.lseek(source, start, os.SEEK_HOLE)
        while start < end and (copied := _copy_range(source, target, start, end - start)):
            start += copied
        if start < end:  # it has become shorter meanwhile
            break
    os.ftruncate(target, size)


def _copy_range(source: int, target: int, offset: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno != errno.EXDEV:  # between some kinds of file systems, as from an image of erofs
            raise
    os.lseek(target, offset, os.SEEK_SET)
    return os.sendfile(target, source, offset, size)


def _copy_attributes(source: int, target: int, status: os.stat_result) -> None:
    os.fchown(target, status.st_uid, status.st_gid)
    for name in _list_xattrs(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _list_xattrs(where: int | str) -> list[str]:
    try:
        return os.listxattr(where) if isinstance(where, int) else os.listxattr(where, follow_symlinks=False)
    except OSError:  # a file system without them
        return []

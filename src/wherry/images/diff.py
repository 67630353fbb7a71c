"""The difference of two directory trees as a layer: OCI image specification, layer.md, "Representing Changes".

Trees are walked by directory descriptors, in the order of names, so that equal trees give equal layers and nobody can
lead the walk astray by a symbolic link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from wherry.errors import FailedPrecondition
from wherry.images.archive import Writer

if TYPE_CHECKING:
    from wherry.linux.mount import MountLike

_WHITEOUT = b".wh."
_PIECE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

#: Extended attributes that belong to the host or to the file system's workings, not to the tree.
_NOT_CONTENT = ("trusted.", "user.overlay.", "security.selinux", "security.ima", "security.evm", "system.nfs4_acl")
#: What makes an upper directory's contents other than what it says itself.
_OVERLAY_MARKS = ("overlay.opaque", "overlay.redirect")


def layers(mounts: Sequence[MountLike]) -> list[str] | None:
    """Return the directories, top first, that mounts put over each other; None if it is not as simple as that."""
    if len(mounts) != 1 or mounts[0].target.strip("/"):
        return None
    (mount,) = mounts
    if mount.type in ("bind", "") and {"bind", "rbind"} & set(mount.options):
        return [mount.source]
    if mount.type != "overlay":
        return None
    upper: list[str] = []
    lowers: list[str] = []
    for option in mount.options:
        name, _, value = option.partition("=")
        if name == "upperdir":
            upper = [value]
        elif name == "lowerdir" and "\\" not in value and "::" not in value:
            lowers = value.split(":")
        elif name not in ("workdir", "index", "userxattr", "ro", "rw"):
            return None
    return upper + lowers if lowers else None


def top_layer(left: Sequence[MountLike], right: Sequence[MountLike]) -> str | None:
    """Return the directory that right adds on top of left, if that is all that they differ in."""
    below, above = layers(left), layers(right)
    if below and above and above[1:] == below:
        return above[0]
    return None


class Differ:
    """Writes what turns the tree `left` into the tree `right`, both given by descriptors of their roots."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        #: Directories on the way to where we are: name, and what lstat and the attributes said; in the archive up to
        #: `_written`.
        self._way: list[tuple[bytes, os.stat_result, dict[str, bytes]]] = []
        self._written = 0
        self._directories_written: set[bytes] = set()
        #: Files with several names: what stands in the archive by its first name, and unchanged names met before that.
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._unchanged_names: dict[tuple[int, int], list[_Found]] = {}

    def write(self, left: int, right: int, top: int | None = None) -> None:
        """Write the layer. `top` is a directory outside of which the trees are known to be equal, if there is one:
        what overlayfs has put over `left` to make `right`. Raises OSError."""
        self._compare(b"", left, right, _Top(top))
        self._writer.finish()

    def _compare(self, path: bytes, left: int, right: int, top: _Top) -> None:
        for name in top.names(left, right):
            below = path + b"/" + name if path else name
            before, after = _lstat(name, left), _lstat(name, right)
            if after is None:
                if before is not None:
                    self._write_parents()
                    self._writer.add_empty_file(_join(path, _WHITEOUT + name))
            elif before is None or not stat.S_ISDIR(before.st_mode) or not stat.S_ISDIR(after.st_mode):
                self._compare_file(below, name, left, right, before, after)
            else:
                self._compare_directory(below, name, left, right, before, after, top)

    def _compare_directory(
        self,
        path: bytes,
        name: bytes,
        left: int,
        right: int,
        before: os.stat_result,
        after: os.stat_result,
        top: _Top,
    ) -> None:
        with ExitStack() as stack:
            old = _open(name, left, stack)
            new = _open(name, right, stack)
            self._descend(path, new, after)
            # Times of directories say nothing: they change when something in them does.
            if _attributes(before) != _attributes(after) or _xattrs(old) != _xattrs(new):
                self._write_parents()
            self._compare(path, old, new, top.below(name, stack))
            self._ascend()

    def _compare_file(
        self,
        path: bytes,
        name: bytes,
        left: int,
        right: int,
        before: os.stat_result | None,
        after: os.stat_result,
    ) -> None:
        if stat.S_ISDIR(after.st_mode):
            self._add_directory(path, name, right, after)
        elif stat.S_ISSOCK(after.st_mode):
            return  # archives have no sockets
        else:
            if name.startswith(_WHITEOUT):
                raise FailedPrecondition(f"{os.fsdecode(path)}: a layer can have no such name, it means a removal")
            found = _Found(path, name, after, right)
            inode = (after.st_dev, after.st_ino) if after.st_nlink > 1 else None
            if inode in self._first_names:
                assert inode is not None
                self._write_parents()
                self._writer.add(path, after, linkname=self._first_names[inode], hard_link=True)
            elif before is not None and _same_file(name, left, right, before, after):
                if inode is not None:
                    self._unchanged_names.setdefault(inode, []).append(found.keeping(self._way))
            else:
                self._add_file(found, inode)

    def _add_directory(self, path: bytes, name: bytes, right: int, seen: os.stat_result) -> None:
        with ExitStack() as stack:
            fd = _open(name, right, stack)
            self._descend(path, fd, seen)
            self._write_parents()
            for child in sorted(map(os.fsencode, os.listdir(fd))):
                after = _lstat(child, fd)
                if after is not None:
                    self._compare_file(path + b"/" + child, child, -1, fd, None, after)
            self._ascend()

    def _add_file(self, found: _Found, inode: tuple[int, int] | None) -> None:
        self._write_parents()
        seen = found.seen
        if stat.S_ISREG(seen.st_mode):
            fd = os.open(found.name, _FILE, dir_fd=found.directory)
            try:
                now = os.fstat(fd)
                if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
                    raise OSError(f"{os.fsdecode(found.path)}: replaced while it was read")
                self._writer.add(found.path, now, xattrs=_xattrs(fd), source=fd)
            finally:
                os.close(fd)
        else:
            linkname = os.readlink(found.name, dir_fd=found.directory) if stat.S_ISLNK(seen.st_mode) else b""
            xattrs = _xattrs_at(found.name, found.directory)
            self._writer.add(found.path, seen, xattrs=xattrs, linkname=linkname)
        if inode is not None:
            self._first_names[inode] = found.path
            for other in self._unchanged_names.pop(inode, ()):
                self._write_directories(other.way)
                self._writer.add(other.path, other.seen, linkname=found.path, hard_link=True)

    # The directories on the way: an archive names them before what is in them.

    def _descend(self, path: bytes, fd: int, seen: os.stat_result) -> None:
        self._way.append((path, seen, _xattrs(fd)))

    def _ascend(self) -> None:
        self._way.pop()
        self._written = min(self._written, len(self._way))

    def _write_parents(self) -> None:
        if self._written < len(self._way):
            self._write_directories(self._way[self._written :])
            self._written = len(self._way)

    def _write_directories(self, way: Sequence[tuple[bytes, os.stat_result, dict[str, bytes]]]) -> None:
        for path, seen, xattrs in way:
            if path not in self._directories_written:
                self._directories_written.add(path)
                self._writer.add(path, seen, xattrs=xattrs)


class _Found:
    """A file of the right tree: its path, and its name in an open directory."""

    __slots__ = ("directory", "name", "path", "seen", "way")

    def __init__(self, path: bytes, name: bytes, seen: os.stat_result, directory: int) -> None:
        self.path = path
        self.name = name
        self.seen = seen
        self.directory = directory
        self.way: list[tuple[bytes, os.stat_result, dict[str, bytes]]] = []

    def keeping(self, way: Sequence[tuple[bytes, os.stat_result, dict[str, bytes]]]) -> _Found:
        self.way = list(way)
        return self


class _Top:
    """The directory of the topmost layer that belongs to the one compared, if comparing can be limited to that."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def names(self, left: int, right: int) -> Iterator[bytes]:
        names = os.listdir(self._fd) if self._fd is not None else {*os.listdir(left), *os.listdir(right)}
        return iter(sorted(map(os.fsencode, names)))

    def below(self, name: bytes, stack: ExitStack) -> _Top:
        if self._fd is None:
            return self
        fd = _open(name, self._fd, stack)
        marked = any(xattr.endswith(_OVERLAY_MARKS) for xattr in os.listxattr(fd))
        return _Top(None if marked else fd)


def _open(name: bytes, directory: int, stack: ExitStack) -> int:
    fd = os.open(name, _DIRECTORY, dir_fd=directory)
    stack.callback(os.close, fd)
    return fd


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _lstat(name: bytes, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _attributes(seen: os.stat_result) -> tuple[int, int, int, int]:
    device = seen.st_rdev if stat.S_ISCHR(seen.st_mode) or stat.S_ISBLK(seen.st_mode) else 0
    return seen.st_mode, seen.st_uid, seen.st_gid, device


def _xattrs(where: int | str) -> dict[str, bytes]:
    return {
        name: os.getxattr(where, name, follow_symlinks=False) if isinstance(where, str) else os.getxattr(where, name)
        for name in _list_xattrs(where)
        if not name.startswith(_NOT_CONTENT)
    }


def _list_xattrs(where: int | str) -> list[str]:
    try:
        return os.listxattr(where, follow_symlinks=False) if isinstance(where, str) else os.listxattr(where)
    except OSError:  # no extended attributes on this file system, or none on this kind of file
        return []


def _xattrs_at(name: bytes, directory: int) -> dict[str, bytes]:
    # Links and devices cannot be opened for their attributes, and there is no getxattrat before Linux 6.13.
    return _xattrs(f"/proc/self/fd/{directory}/{os.fsdecode(name)}")


def _same_file(name: bytes, left: int, right: int, before: os.stat_result, after: os.stat_result) -> bool:
    if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
        return True
    if _attributes(before) != _attributes(after):
        return False
    if stat.S_ISLNK(after.st_mode):
        same_target = os.readlink(name, dir_fd=left) == os.readlink(name, dir_fd=right)
        return same_target and before.st_mtime_ns == after.st_mtime_ns
    if before.st_size != after.st_size or before.st_mtime_ns != after.st_mtime_ns:
        return False
    if _xattrs_at(name, left) != _xattrs_at(name, right):
        return False
    # A time of whole seconds may have been cut off, as archives do: then only the contents tell.
    if stat.S_ISREG(after.st_mode) and after.st_mtime_ns % 1_000_000_000 == 0:
        return _same_contents(name, left, right)
    return True


def _same_contents(name: bytes, left: int, right: int) -> bool:
    with ExitStack() as stack:
        old = os.open(name, _FILE, dir_fd=left)
        stack.callback(os.close, old)
        new = os.open(name, _FILE, dir_fd=right)
        stack.callback(os.close, new)
        while True:
            piece = os.read(old, _PIECE)
            if piece != os.read(new, _PIECE):
                return False
            if not piece:
                return True

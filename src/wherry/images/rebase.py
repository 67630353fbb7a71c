"""What a layer left pending, done once the layers below it are known.

The process has entered the upper directory with chroot(2), and opens what is in lower ones with openat2(2), so that no
link in either leads anywhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from wherry.images import metadata
from wherry.images.pending import Link, Pending
from wherry.linux import openat2, tree

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def opaque(*, user_xattrs: bool) -> str:
    """Return the name of the attribute by which a directory hides those of its name below it."""
    return "user.overlay.opaque" if user_xattrs else "trusted.overlay.opaque"


def settle(pending: Pending, lowers: Sequence[int], *, user_xattrs: bool) -> None:
    """Do what is pending in the process's root directory, over `lowers`, descriptors of directories, top first.

    Done again after an interruption it comes to the same. Raises kinds of wherry.errors that name the entry at fault.
    """
    _Settlement(pending, lowers, user_xattrs=user_xattrs).settle()


class _Settlement:
    def __init__(self, pending: Pending, lowers: Sequence[int], *, user_xattrs: bool) -> None:
        self._pending = pending
        self._lowers = lowers
        self._opaque = opaque(user_xattrs=user_xattrs)
        self._reserved = metadata.RESERVED_USER if user_xattrs else metadata.RESERVED
        #: Times of directories that get a name more.
        self._times: dict[bytes, tuple[int, int]] = {}

    def settle(self) -> None:
        os.umask(0)
        by_target: dict[bytes, list[Link]] = {}
        for link in self._pending.links:
            by_target.setdefault(link.target, []).append(link)
        for links in by_target.values():
            self._link(links)
        for path, described in self._pending.directories.items():
            try:
                self._complete(path, described=described)
            except OSError as error:
                raise metadata.failure(path.lstrip(b"/"), error) from error
        for path, times in self._times.items():
            os.utime(path, ns=times, follow_symlinks=False)

    # Directories.

    def _complete(self, path: bytes, *, described: bool) -> None:
        """Make a directory look as it does below, where no entry has said how."""
        source = self._open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if source is None:
            if not described:
                self._inherit_group(path)
            return
        try:
            made = os.open(path, _DIRECTORY)
            try:
                if described:
                    metadata.copy_xattrs(source, made)
                    return
                metadata.copy(source, made)
                seen = os.fstat(source)
                self._times[path] = (seen.st_atime_ns, seen.st_mtime_ns)
            finally:
                os.close(made)
        finally:
            os.close(source)

    def _inherit_group(self, path: bytes) -> None:
        """Give a directory that is new the group that it would have had from a set-group-id one below, mkdir(2)."""
        parent = os.path.dirname(path)
        if parent not in self._pending.directories:
            return
        source = self._open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if source is None:
            return
        try:
            seen = os.fstat(source)
        finally:
            os.close(source)
        if seen.st_mode & stat.S_ISGID:
            os.chown(path, -1, seen.st_gid, follow_symlinks=False)

    # Hard links.

    def _link(self, links: Sequence[Link]) -> None:
        """Make the links to one file of a lower layer: a copy of it, which is what a write to it would make.

        The copy is also put where the file is below, unless this layer has something else there or hides it. That is
        the last step: if the two are one file, an interrupted settlement had come that far.
        """
        target = links[0].target
        paths = [link.path for link in links if link.path is not None]
        try:
            if paths and _same_file(paths[0], target):
                return
            if self._is_free(target):
                self._make_parents(target)
                paths.append(target)
            for number, path in enumerate(paths):
                self._keep_times(path)
                if path != target:
                    _remove_file(path)
                if number == 0:
                    self._copy(target, path)
                    # One file: all its names' attributes are its, and the last one's word counts.
                    for link in links:
                        metadata.apply(path, os.lstat(path), link.entry, self._reserved)
                else:
                    os.link(paths[0], path, follow_symlinks=False)
        except (OSError, OverflowError) as error:
            raise metadata.failure(links[0].entry_name, error) from error

    def _is_free(self, path: bytes) -> bool:
        """Tell whether the upper directory has nothing at a path and lets what is below show."""
        for directory in _parents(path):
            try:
                seen = os.lstat(directory)
            except FileNotFoundError:
                return True
            if not stat.S_ISDIR(seen.st_mode) or self._opaque in os.listxattr(directory):
                return False
        return not os.path.lexists(path)

    def _make_parents(self, path: bytes) -> None:
        for directory in _parents(path):
            if not os.path.lexists(directory):
                self._keep_times(directory)
                os.mkdir(directory, 0o755)
                self._pending.directories[directory] = False

    def _copy(self, target: bytes, path: bytes) -> None:
        source = self._open(target, _PATH)
        if source is None:
            raise OSError(errno.ENOENT, "hard link to a file that no layer has", target)
        try:
            seen = os.fstat(source)
            if stat.S_ISREG(seen.st_mode):
                self._copy_file(target, path, seen)
                return
            if stat.S_ISDIR(seen.st_mode):
                raise OSError(errno.EPERM, "hard link to a directory", target)
            if stat.S_ISLNK(seen.st_mode):
                os.symlink(os.readlink(b"", dir_fd=source), path)
            else:
                os.mknod(path, seen.st_mode, seen.st_rdev)
        finally:
            os.close(source)

    def _copy_file(self, target: bytes, path: bytes, seen: os.stat_result) -> None:
        source = self._open(target, _READ)
        assert source is not None
        try:
            copy = os.open(path, _CREATE, 0o600)
            try:
                tree.copy_data(source, copy, seen.st_size)
                metadata.copy(source, copy)
                os.utime(copy, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            finally:
                os.close(copy)
        finally:
            os.close(source)

    # The layers below.

    def _open(self, path: bytes, flags: int) -> int | None:
        """Open what an absolute path means in the topmost lower directory that has it; None if none shows it."""
        for lower in self._lowers:
            try:
                fd = openat2.open_in_root(lower, path, flags)
            except FileNotFoundError:
                if self._hides(lower, path):
                    return None
                continue
            except OSError:
                return None  # replaced by something else there, a whiteout perhaps
            seen = os.fstat(fd)
            if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0:
                os.close(fd)
                return None
            return fd
        return None

    def _hides(self, lower: int, path: bytes) -> bool:
        """Tell whether a directory on the way to a path hides what is below it."""
        for directory in _parents(path):
            try:
                fd = openat2.open_in_root(lower, directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                return False
            try:
                if self._opaque in os.listxattr(fd):
                    return True
            finally:
                os.close(fd)
        return False

    def _keep_times(self, path: bytes) -> None:
        directory = os.path.dirname(path)
        if directory not in self._times:
            seen = os.lstat(directory)
            self._times[directory] = (seen.st_atime_ns, seen.st_mtime_ns)


def _parents(path: bytes) -> list[bytes]:
    """Return the directories on the way to an absolute path, the root left out."""
    parents = []
    while len(path := os.path.dirname(path)) > 1:
        parents.append(path)
    return parents[::-1]


def _same_file(path: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except OSError:
        return False


def _remove_file(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return

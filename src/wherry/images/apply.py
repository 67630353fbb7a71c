"""A layer's archive applied to a directory: OCI image specification, layer.md, "Applying Changesets".

The process has entered the directory with chroot(2) before the first entry is looked at, so no name, link or ".." in
an archive leads anywhere else, and whatever is needed has been imported by then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from wherry.images import metadata, rebase, tar
from wherry.images.applied import Applied, applied, is_whiteout
from wherry.images.pending import Pending
from wherry.images.tar import ArchiveError
from wherry.linux import tree

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
#: aufs' own bookkeeping, which no other file system has a use for.
_AUFS = b".wh..wh."

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEVICES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}

_MAX_LINKS = 255


class Overlay:
    """That the directory is the upper one of an overlay, and what that means.

    Removals are written down in overlayfs' own form (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
    directories") for the lower directories' sake. What an archive says of files there is left in `pending`.
    """

    def __init__(self, pending: Pending, *, user_xattrs: bool) -> None:
        self.pending = pending
        self.opaque = rebase.opaque(user_xattrs=user_xattrs)
        self.reserved = metadata.RESERVED_USER if user_xattrs else metadata.RESERVED


class Applier:
    """Applies entries to the process's root directory. With `overlay` that is an upper directory, else a whole tree."""

    def __init__(self, reader: tar.Reader, overlay: Overlay | None = None) -> None:
        self._reader = reader
        self._overlay = overlay
        self._reserved = overlay.reserved if overlay else metadata.RESERVED
        #: The directory we are in: its name as the archive has it (None: to be looked up again), and its path.
        self._parent: bytes | None = None
        self._here = b"/"
        self._prefix = b"/"
        self._applied: Applied = applied(overlay.pending if overlay else Pending())
        #: Last times of directories, set when nothing changes in them any more.
        self._directories: dict[bytes, tuple[int, int]] = {}
        #: Directories below which nothing of lower layers shows.
        self._opaque: set[bytes] = set()

    def apply(self) -> None:
        """Apply all entries. Raises kinds of wherry.errors that name the entry at fault."""
        os.umask(0)
        for entry in self._reader:
            try:
                self._apply(entry)
            except (OSError, ArchiveError, OverflowError) as error:
                raise metadata.failure(entry.name, error) from error
        for path, times in self._directories.items():
            try:
                os.utime(path, ns=times, follow_symlinks=False)
            except FileNotFoundError:
                pass  # removed by a later entry

    def _apply(self, entry: tar.Entry) -> None:
        name = _clean(entry.name)
        parent, _, base = name.rpartition(b"/")
        if not base:
            return  # the root itself: containerd leaves it as it is
        if _WHITEOUT in name:
            if name.startswith(_AUFS) or b"/" + _AUFS in name:
                if base == _OPAQUE and _AUFS not in parent:
                    self._enter(parent)
                    self._make_opaque()
                return
            if base.startswith(_WHITEOUT):
                self._enter(parent)
                self._white_out(base[len(_WHITEOUT) :], entry)
                return
        if parent != self._parent:
            self._enter(parent)
        path = self._prefix + base
        replaced = self._overlay is not None and self._overlay.pending.replace(path)
        self._create(base, entry)
        if replaced and entry.type == tar.DIRECTORY:
            self._hide(path)
        self._applied.add(self._here, path)

    # Directories on the way to an entry.

    def _enter(self, parent: bytes) -> None:
        self._parent = None
        try:
            os.chdir(b"/" + parent)
        except (FileNotFoundError, NotADirectoryError):
            self._enter_or_make(parent)
        self._here = os.getcwdb()
        self._prefix = self._here if self._here == b"/" else self._here + b"/"
        self._parent = parent

    def _enter_or_make(self, parent: bytes) -> None:
        os.chdir(b"/")
        rest = parent.split(b"/")[::-1]
        missing: list[bytes] = []
        links = 0
        while rest:
            part = rest.pop()
            if part in (b"", b"."):
                continue
            if missing:
                # Nothing exists below what is missing, and a link may yet lead back out of it.
                if part == b"..":
                    missing.pop()
                else:
                    missing.append(part)
                continue
            try:
                os.chdir(part)
                continue
            except FileNotFoundError:
                pass
            except NotADirectoryError:
                if not self._replace_whiteout(part):
                    raise
                os.chdir(part)
                continue
            try:
                target = os.readlink(part)
            except FileNotFoundError:
                missing.append(part)
            else:
                # A link whose target does not exist yet: the directories are made where it points.
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith(b"/"):
                    os.chdir(b"/")
                rest += target.split(b"/")[::-1]
        for part in missing:
            self._make_parent(part)
            os.chdir(part)

    def _replace_whiteout(self, part: bytes) -> bool:
        """A directory that this layer removes, then makes again without describing it: false if it did not."""
        seen = os.lstat(part)
        if self._overlay is None or not is_whiteout(seen):
            return False
        os.unlink(part)
        os.mkdir(part, 0o755)
        path = os.path.join(os.getcwdb(), part)
        self._applied.add_parent(path)
        self._hide(path)
        return True

    def _make_parent(self, part: bytes) -> None:
        """Make a directory that the archive does not describe: 0755, until it is made to look as it does below."""
        os.mkdir(part, 0o755)
        os.chmod(part, 0o755)  # noqa: S103 — without the set-group-id bit, which would be inherited
        path = os.path.join(os.getcwdb(), part)
        self._applied.add_parent(path)
        if self._overlay is None:
            return
        if path in self._overlay.pending:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not self._is_hidden(path):
            self._overlay.pending.directories[path] = False

    def _is_hidden(self, path: bytes) -> bool:
        """Tell whether this layer has hidden all that is below a path."""
        assert self._overlay is not None
        while self._opaque and len(path) > 1:
            path = os.path.dirname(path)
            if path in self._opaque:
                return True
        return False

    def _hide(self, path: bytes) -> None:
        """Hide what lower layers have in a directory."""
        if self._overlay is not None:
            os.setxattr(path, self._overlay.opaque, b"y")
            self._opaque.add(path)

    # Removals.

    def _make_opaque(self) -> None:
        self._hide(self._here)
        self._remove_from_below(self._here)

    def _remove_from_below(self, directory: bytes) -> None:
        """Remove what other layers have put into a directory, or into those of this layer's below it."""
        with os.scandir(directory) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in names:
            path = os.path.join(directory, name)
            if path not in self._applied:
                self._remove(path)
            elif is_directory:
                self._remove_from_below(path)

    def _white_out(self, name: bytes, entry: tar.Entry) -> None:
        if name in (b"", b".", b".."):
            raise ArchiveError("invalid whiteout")
        path = self._prefix + name
        if path in self._applied:
            # This layer has put another in its place, which may come before as well as after the whiteout.
            if os.path.isdir(path) and not os.path.islink(path):
                self._hide(path)
                self._remove_from_below(path)
            return
        try:
            self._remove(path)
        except FileNotFoundError:
            pass  # it is in a lower layer, or nowhere
        # In a directory that hides what is below there is nothing to remove, and the whiteout would be seen.
        if self._overlay is not None and not self._is_hidden(path):
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0))
            os.chown(name, metadata.user_or_group(entry.uid), metadata.user_or_group(entry.gid), follow_symlinks=False)

    def _remove(self, path: bytes) -> None:
        """Remove whatever is at an absolute path. Raises OSError."""
        try:
            mode = os.lstat(path).st_mode
        finally:
            if self._overlay is not None:
                self._overlay.pending.replace(path)
        if stat.S_ISLNK(mode) or stat.S_ISDIR(mode):
            self._parent = None  # names that led through it may lead elsewhere now
        if not stat.S_ISDIR(mode):
            os.unlink(path)
            return
        for directory, _, names in os.walk(path):
            self._applied.forget(directory, names)
            self._directories.pop(directory, None)
            self._opaque.discard(directory)
        if self._overlay is not None:
            self._overlay.pending.remove(path)
        tree.remove(path)

    # What an entry is.

    def _create(self, base: bytes, entry: tar.Entry) -> None:
        kind = entry.type
        if kind == tar.REGULAR:
            self._create_file(base, entry)
        elif kind == tar.DIRECTORY:
            self._create_directory(base, entry)
        elif kind == tar.SYMLINK:
            self._replacing(base, lambda: os.symlink(entry.linkname, base))
            metadata.apply(base, os.lstat(base), entry, self._reserved)
        elif kind == tar.LINK:
            self._create_link(base, entry)
        elif kind in _DEVICES:
            device = os.makedev(entry.major, entry.minor) if kind != tar.FIFO else 0
            self._replacing(base, lambda: os.mknod(base, _DEVICES[kind] | entry.mode, device))
            metadata.apply(base, os.lstat(base), entry, self._reserved)
        else:
            raise ArchiveError(f"unknown type {kind!r}")

    def _replacing(self, base: bytes, create: Callable[[], None]) -> None:
        """Call create, and once more after removing what is in its way."""
        try:
            create()
        except FileExistsError:
            self._remove(self._prefix + base)
            create()

    def _create_file(self, base: bytes, entry: tar.Entry) -> None:
        # The set-id bits come last, when the file is its owner's and whole.
        mode = entry.mode & 0o1777
        try:
            fd = os.open(base, _CREATE, mode)
        except FileExistsError:
            self._remove(self._prefix + base)
            fd = os.open(base, _CREATE, mode)
        try:
            if entry.size:
                self._reader.copy_body(entry, fd)
            metadata.apply(fd, os.fstat(fd), entry, self._reserved)
        finally:
            os.close(fd)

    def _create_directory(self, base: bytes, entry: tar.Entry) -> None:
        path = self._prefix + base
        try:
            os.mkdir(base, entry.mode & 0o777)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(base).st_mode):
                self._remove(path)
                os.mkdir(base, entry.mode & 0o777)
                # What was there hid a lower directory of this name, and goes on hiding it.
                self._hide(path)
        metadata.apply(base, os.lstat(base), entry, self._reserved, times=False)
        self._directories[path] = metadata.accessed_and_modified(entry)
        if self._overlay is not None and path in self._overlay.pending.directories:
            self._overlay.pending.directories[path] = True

    def _create_link(self, base: bytes, entry: tar.Entry) -> None:
        target = b"/" + _clean(entry.linkname)
        if self._prefix + base == target:
            raise ArchiveError("hard link to itself")

        def link() -> None:
            os.link(target, base, follow_symlinks=False)

        try:
            self._replacing(base, link)
        except FileNotFoundError:
            if self._overlay is None:
                raise
            self._link_later(self._overlay.pending, target, base, entry)
            return
        seen = os.lstat(base)
        if self._overlay is not None and is_whiteout(seen):
            os.unlink(base)
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), target)
        metadata.apply(base, seen, entry, self._reserved)

    def _link_later(self, pending: Pending, target: bytes, base: bytes, entry: tar.Entry) -> None:
        """Leave a link to a file of a lower layer pending."""
        target = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        if target not in pending and self._is_hidden(target):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), target)
        path = self._prefix + base
        if os.path.lexists(base):
            self._remove(path)
        pending.add_link(path, target, entry)


def _clean(name: bytes) -> bytes:
    """A name without "." and ".." and doubled slashes, from the root on; ".." stops there."""
    if name.startswith(b"./"):
        name = name[2:]
    if b"/." not in name and b"//" not in name and not name.startswith(b"."):
        return name.strip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)

"""A layer's archive applied to a directory: OCI image specification, layer.md, "Applying Changesets".

The process has entered the directory with chroot(2) before the first entry is looked at, so no name, link or ".." in
an archive leads anywhere else, and whatever is needed has been imported by then.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from wherry.errors import Error, FailedPrecondition, ResourceExhausted, Unknown
from wherry.images import tar
from wherry.images.tar import ArchiveError
from wherry.linux import openat2, tree

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
#: aufs' own bookkeeping, which no other file system has a use for.
_AUFS = b".wh..wh."

_RESERVED: tuple[bytes, ...] = (b"trusted.",)

_CREATE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_DEVICES = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}

#: (uid_t) -1 means "leave it" to chown(2).
_MAX_ID = 0xFFFFFFFE
_MAX_TIME = (1 << 63) - 1
_MAX_LINKS = 255


class Overlay:
    """That the directory is the upper one of an overlay, and what that means.

    Removals are written down in overlayfs' own form (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque
    directories") for the lower directories' sake. `lowers` are descriptors of those, top first: directories that an
    archive does not describe look as they do there.
    """

    def __init__(self, lowers: Sequence[int], *, user_xattrs: bool) -> None:
        self.lowers = lowers
        self.opaque = "user.overlay.opaque" if user_xattrs else "trusted.overlay.opaque"
        #: Extended attributes that steer the kernel's own file systems: no image has a say in those.
        self.reserved = (b"trusted.", b"user.overlay.") if user_xattrs else _RESERVED


class Applier:
    """Applies entries to the process's root directory. With `overlay` that is an upper directory, else a whole tree."""

    def __init__(self, reader: tar.Reader, overlay: Overlay | None = None) -> None:
        self._reader = reader
        self._overlay = overlay
        self._reserved = overlay.reserved if overlay else _RESERVED
        #: The directory we are in: its name as the archive has it (None: to be looked up again), and its path.
        self._parent: bytes | None = None
        self._here = b"/"
        #: What this layer has put in place, and what lies on the way to it: a whiteout is about the layers below.
        self._applied: set[bytes] = set()
        self._ancestors: set[bytes] = set()
        #: Last times of directories, set when nothing changes in them any more.
        self._directories: dict[bytes, tuple[int, int]] = {}

    def apply(self) -> None:
        """Apply all entries. Raises kinds of wherry.errors that name the entry at fault."""
        os.umask(0)
        for entry in self._reader:
            try:
                self._apply(entry)
            except (OSError, ArchiveError, OverflowError) as error:
                raise _about(entry, error) from error
        for path, times in self._directories.items():
            try:
                os.utime(path, ns=times, follow_symlinks=False)
            except FileNotFoundError:
                pass  # removed by a later entry

    def _apply(self, entry: tar.Entry) -> None:
        name = _clean(entry.name)
        parent, _, base = name.rpartition(b"/")
        if base in (b"", b".", b".."):
            return  # the root itself: containerd leaves it as it is
        if name.startswith(_AUFS) or b"/" + _AUFS in name:
            if base == _OPAQUE and _AUFS not in parent:
                self._enter(parent)
                self._make_opaque()
            return
        if parent != self._parent:
            self._enter(parent)
        if base.startswith(_WHITEOUT):
            self._white_out(base[len(_WHITEOUT) :], entry)
            return
        self._create(base, entry)
        self._mark_applied(base)

    def _mark_applied(self, base: bytes) -> None:
        self._applied.add(self._path(base))
        ancestor = self._here
        while ancestor not in self._ancestors:
            self._ancestors.add(ancestor)
            ancestor = os.path.dirname(ancestor)

    def _path(self, base: bytes) -> bytes:
        return self._here + base if self._here == b"/" else self._here + b"/" + base

    # Directories on the way to an entry.

    def _enter(self, parent: bytes) -> None:
        self._parent = None
        try:
            os.chdir(b"/" + parent)
        except (FileNotFoundError, NotADirectoryError):
            self._enter_or_make(parent)
        self._here = os.getcwdb()
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
        if self._overlay is None or not stat.S_ISCHR(seen.st_mode) or seen.st_rdev != 0:
            return False
        os.unlink(part)
        os.mkdir(part, 0o755)
        os.setxattr(part, self._overlay.opaque, b"y")
        return True

    def _make_parent(self, part: bytes) -> None:
        """Make a directory that the archive does not describe: as it is in the lower layers, else 0755."""
        os.mkdir(part, 0o755)
        os.chmod(part, 0o755)  # noqa: S103 — without the set-group-id bit, which would be inherited
        if self._overlay is None:
            return
        path = os.path.join(os.getcwdb(), part)
        fd = self._open_lower(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if fd is None:
            return
        try:
            made = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _copy_metadata(fd, made)
                seen = os.fstat(fd)
                self._directories[path] = (seen.st_atime_ns, seen.st_mtime_ns)
            finally:
                os.close(made)
        finally:
            os.close(fd)

    def _open_lower(self, path: bytes, flags: int) -> int | None:
        """Open what an absolute path means in the topmost lower directory that has it; None if none has."""
        assert self._overlay is not None
        for lower in self._overlay.lowers:
            try:
                return openat2.open_in_root(lower, path, flags)
            except FileNotFoundError:
                continue
            except OSError:
                return None  # replaced by something else there, a whiteout perhaps
        return None

    # Removals.

    def _make_opaque(self) -> None:
        if self._overlay is not None:
            os.setxattr(b".", self._overlay.opaque, b"y")
        self._remove_from_below(self._here)

    def _remove_from_below(self, directory: bytes) -> None:
        """Remove what other layers have put into a directory, or into those of this layer's below it."""
        with os.scandir(directory) as entries:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in names:
            path = os.path.join(directory, name)
            if path not in self._applied and path not in self._ancestors:
                tree.remove(path)
            elif is_directory:
                self._remove_from_below(path)

    def _white_out(self, name: bytes, entry: tar.Entry) -> None:
        if name in (b"", b".", b".."):
            raise ArchiveError("invalid whiteout")
        path = self._path(name)
        if path in self._applied or path in self._ancestors:
            # This layer has put another in its place, which may come before as well as after the whiteout.
            if os.path.isdir(path) and not os.path.islink(path):
                if self._overlay is not None:
                    os.setxattr(path, self._overlay.opaque, b"y")
                self._remove_from_below(path)
            return
        tree.remove(name)
        if self._overlay is not None:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0))
            os.chown(name, _id(entry.uid), _id(entry.gid), follow_symlinks=False)

    # What an entry is.

    def _create(self, base: bytes, entry: tar.Entry) -> None:
        if entry.type == tar.REGULAR:
            self._create_file(base, entry)
        elif entry.type == tar.DIRECTORY:
            self._create_directory(base, entry)
        elif entry.type == tar.SYMLINK:
            self._replacing(base, lambda: os.symlink(entry.linkname, base))
            self._set_metadata(base, entry, is_link=True)
        elif entry.type == tar.LINK:
            self._create_link(base, entry)
        elif entry.type in _DEVICES:
            device = os.makedev(entry.major, entry.minor) if entry.type != tar.FIFO else 0
            self._replacing(base, lambda: os.mknod(base, _DEVICES[entry.type] | entry.mode, device))
            self._set_metadata(base, entry)
        else:
            raise ArchiveError(f"unknown type {entry.type!r}")

    def _replacing(self, base: bytes, create: Callable[[], None]) -> None:
        """Call create, and once more after removing what is in its way."""
        try:
            create()
        except FileExistsError:
            self._remove(base)
            create()

    def _remove(self, base: bytes) -> None:
        mode = os.lstat(base).st_mode
        if stat.S_ISLNK(mode) or stat.S_ISDIR(mode):
            self._parent = None  # names that led through it may lead elsewhere now
        if not stat.S_ISDIR(mode):
            os.unlink(base)
            return
        tree.remove(base)
        directory = self._path(base)
        below = directory + b"/"
        self._applied = {path for path in self._applied if not path.startswith(below)}
        self._ancestors = {path for path in self._ancestors if path != directory and not path.startswith(below)}
        self._directories = {
            path: times for path, times in self._directories.items() if path != directory and not path.startswith(below)
        }

    def _create_file(self, base: bytes, entry: tar.Entry) -> None:
        try:
            fd = os.open(base, _CREATE, 0o600)
        except FileExistsError:
            self._remove(base)
            fd = os.open(base, _CREATE, 0o600)
        try:
            self._reader.copy_body(entry, fd)
            os.fchown(fd, _id(entry.uid), _id(entry.gid))
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            # After chown, which clears the set-id bits.
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=_times(entry))
        finally:
            os.close(fd)

    def _create_directory(self, base: bytes, entry: tar.Entry) -> None:
        try:
            os.mkdir(base, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(base).st_mode):
                self._remove(base)
                os.mkdir(base, 0o700)
                if self._overlay is not None and self._overlay.lowers:
                    # What was there hid a lower directory of this name, and goes on hiding it.
                    os.setxattr(base, self._overlay.opaque, b"y")
        self._set_metadata(base, entry)
        self._directories[self._path(base)] = _times(entry)

    def _create_link(self, base: bytes, entry: tar.Entry) -> None:
        target = b"/" + _clean(entry.linkname)
        if self._path(base) == target:
            raise ArchiveError("hard link to itself")

        def link() -> None:
            os.link(target, base, follow_symlinks=False)

        try:
            self._replacing(base, link)
        except FileNotFoundError:
            if self._overlay is None:
                raise
            self._copy_up(target)
            self._replacing(base, link)
        self._set_metadata(base, entry, is_link=stat.S_ISLNK(os.lstat(base).st_mode))

    def _copy_up(self, path: bytes) -> None:
        """Bring a lower directory's file into this one, for a hard link to it."""
        source = self._open_lower(path, _READ)
        if source is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        here = self._here
        try:
            seen = os.fstat(source)
            if not stat.S_ISREG(seen.st_mode):
                raise OSError(errno.ENOENT, "hard link to a file of a lower layer that is not regular", path)
            self._enter(os.path.dirname(path).lstrip(b"/"))
            base = os.path.basename(path)
            fd = os.open(base, _CREATE, 0o600)
            try:
                while os.copy_file_range(source, fd, 1 << 30):
                    pass
                _copy_metadata(source, fd)
                os.utime(fd, ns=(seen.st_atime_ns, seen.st_mtime_ns))
            finally:
                os.close(fd)
            self._mark_applied(base)
        finally:
            os.close(source)
        os.chdir(here)
        self._here = here
        self._parent = None

    # What an entry looks like.

    def _set_metadata(self, base: bytes, entry: tar.Entry, *, is_link: bool = False) -> None:
        os.chown(base, _id(entry.uid), _id(entry.gid), follow_symlinks=False)
        if entry.xattrs:
            self._set_xattrs(base, entry)
        if not is_link:
            os.chmod(base, entry.mode)
        os.utime(base, ns=_times(entry), follow_symlinks=False)

    def _set_xattrs(self, where: bytes | int, entry: tar.Entry) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(self._reserved):
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


def _copy_metadata(source: int, target: int) -> None:
    seen = os.fstat(source)
    os.fchown(target, seen.st_uid, seen.st_gid)
    for name in os.listxattr(source):
        if not name.startswith("trusted."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(seen.st_mode))


def _clean(name: bytes) -> bytes:
    """A name without "." and ".." and doubled slashes, from the root on; ".." stops there."""
    if b"/." not in name and b"//" not in name and not name.startswith(b"."):
        return name.strip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _id(number: int) -> int:
    if not 0 <= number <= _MAX_ID:
        raise ArchiveError(f"invalid user or group id {number}")
    return number


def _times(entry: tar.Entry) -> tuple[int, int]:
    """Access and modification time; what the kernel cannot hold becomes the epoch, as containerd has it."""
    modified = entry.mtime if 0 <= entry.mtime <= _MAX_TIME else 0
    accessed = entry.atime if 0 <= entry.atime <= _MAX_TIME else 0
    return max(accessed, modified), modified


def _about(entry: tar.Entry, error: Exception) -> Error:
    name = entry.name.decode("utf-8", "backslashreplace")
    if isinstance(error, OSError):
        what = (error.strerror or str(error)).lower()
        if error.filename is not None:
            about = os.fsdecode(error.filename)
            what += "" if name.endswith(about) else f": {about}"
        kind: type[Error] = Unknown
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = ResourceExhausted
        elif error.errno == errno.EROFS:
            kind = FailedPrecondition
        return kind(f'layer entry "{name}": {what}')
    if isinstance(error, OverflowError):
        return ArchiveError(f'layer entry "{name}": number out of range')
    return ArchiveError(f'layer entry "{name}": {error}')

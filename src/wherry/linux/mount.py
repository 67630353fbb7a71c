"""Mounts as containerd describes them: a type, a source and a list of options, put in place by mount(2) and umount2(2).

Anything with the attributes type, source, target and options will do for a mount, so also the protobuf messages.
"""

from __future__ import annotations

import errno
import os

from wherry.linux import foreign
from wherry.linux.libc import check, libc
from wherry.linux.openat2 import open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Protocol

    class MountLike(Protocol):
        """A mount: what to put where. `target` is a path below the mount point that the caller names, mostly ""."""

        @property
        def type(self) -> str: ...
        @property
        def source(self) -> str: ...
        @property
        def target(self) -> str: ...
        @property
        def options(self) -> Sequence[str]: ...


# <sys/mount.h>
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
MNT_EXPIRE = 4
UMOUNT_NOFOLLOW = 8

CLONE_NEWNS = 0x00020000

#: mount(2) takes at most a page of options.
_OPTIONS_SIZE = os.sysconf("SC_PAGESIZE")

#: What each option sets; mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS.
_SETS = {
    "bind": MS_BIND,
    "dirsync": MS_DIRSYNC,
    "lazytime": MS_LAZYTIME,
    "mand": MS_MANDLOCK,
    "noatime": MS_NOATIME,
    "nodev": MS_NODEV,
    "nodiratime": MS_NODIRATIME,
    "noexec": MS_NOEXEC,
    "nosuid": MS_NOSUID,
    "nosymfollow": MS_NOSYMFOLLOW,
    "rbind": MS_BIND | MS_REC,
    "relatime": MS_RELATIME,
    "remount": MS_REMOUNT,
    "ro": MS_RDONLY,
    "silent": MS_SILENT,
    "strictatime": MS_STRICTATIME,
    "sync": MS_SYNCHRONOUS,
}
_PROPAGATIONS = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}
#: What each option clears again.
_CLEARS = {
    "async": MS_SYNCHRONOUS,
    "atime": MS_NOATIME,
    "defaults": 0,
    "dev": MS_NODEV,
    "diratime": MS_NODIRATIME,
    "exec": MS_NOEXEC,
    "loud": MS_SILENT,
    "nolazytime": MS_LAZYTIME,
    "nomand": MS_MANDLOCK,
    "norelatime": MS_RELATIME,
    "nostrictatime": MS_STRICTATIME,
    "rw": MS_RDONLY,
    "suid": MS_NOSUID,
    "symfollow": MS_NOSYMFOLLOW,
}

libc.mount.argtypes = [foreign.c_char_p, foreign.c_char_p, foreign.c_char_p, foreign.c_ulong, foreign.c_char_p]
libc.umount2.argtypes = [foreign.c_char_p, foreign.c_int]


class Mount:
    """What to mount: the file system's type ("bind" for none), its source and its options, as strings of mount(8)."""

    __slots__ = ("options", "source", "target", "type")

    def __init__(self, type: str, source: str, options: Iterable[str] = (), target: str = "") -> None:
        self.type = type
        self.source = source
        self.options: list[str] = list(options)
        #: A path below the mount point that the caller names, or "" for the mount point itself.
        self.target = target

    def __repr__(self) -> str:
        return f"Mount({self.type!r}, {self.source!r}, {self.options!r}, {self.target!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mount):
            return NotImplemented
        return (self.type, self.source, self.options, self.target) == (
            other.type,
            other.source,
            other.options,
            other.target,
        )

    __hash__ = None  # type: ignore[assignment]


def parse_options(options: Iterable[str]) -> tuple[int, int, str]:
    """Split options into mount(2)'s flags, the last propagation (0: none named; MS_REC is in it if it is recursive)
    and the data that only the file system understands. "loop" is among the data."""
    flags = 0
    propagation = 0
    data = []
    for option in options:
        if option in _SETS:
            flags |= _SETS[option]
        elif option in _CLEARS:
            flags &= ~_CLEARS[option]
        elif option in _PROPAGATIONS:
            propagation = _PROPAGATIONS[option]
        else:
            data.append(option)
    return flags, propagation, ",".join(data)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Call mount(2). Raises OSError."""
    result = libc.mount(
        os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, os.fsencode(data) if data else None
    )
    if source and source != fstype:
        check(result, source, target)
    else:
        check(result, target)


def umount(target: str, flags: int = 0) -> None:
    """Call umount2(2): takes off the top mount at target. Raises OSError (EINVAL: nothing is mounted there)."""
    check(libc.umount2(os.fsencode(target), flags), target)


def set_propagation(target: str, flags: int) -> None:
    """Make the mount at target MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE; with MS_REC all below it too."""
    mount("", target, "", flags)


def mount_one(what: MountLike, root: str) -> None:
    """Mount at root, or at `what.target` resolved below root and never outside it. Raises OSError.

    "ro" on a bind mount and propagation flags take further calls of mount(2); if one of them fails nothing stays
    mounted. Overlay options longer than a page are shortened by changing the working directory during the call, so
    a process with several threads mounts such overlays at its own risk.
    """
    if not what.target or what.target.strip("/") == "":
        _mount_at(what, root)
        return
    fd = _open_below(root, what.target)
    try:
        _mount_at(what, f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def mount_all(mounts: Iterable[MountLike], root: str) -> None:
    """Mount one after the other at root; if one fails, take the earlier ones off again and raise its OSError."""
    done: list[str] = []
    try:
        for each in mounts:
            mount_one(each, root)
            done.append(os.path.join(root, each.target.lstrip("/")))
    except BaseException:
        for target in reversed(done):
            umount(target, MNT_DETACH | UMOUNT_NOFOLLOW)
        raise


def unmount_all(target: str, flags: int = 0) -> None:
    """Unmount whatever is mounted at target, layer after layer; no error if nothing is or target does not exist.

    Raises OSError, EBUSY among them: MNT_DETACH in flags never waits for users.
    """
    while True:
        try:
            umount(target, flags | UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def read_only(mounts: Iterable[MountLike]) -> list[Mount]:
    """Return mounts that show the same tree but cannot change it, nor block its upper directory for others.

    An overlay's upper directory becomes its top lower one, its work directory is left out; a bind gets "ro".
    """
    result = []
    for each in mounts:
        if each.type == "overlay":
            result.append(Mount(each.type, each.source, _read_only_overlay(each.options), each.target))
        else:
            options = [option for option in each.options if option not in ("ro", "rw")]
            result.append(Mount(each.type, each.source, [*options, "ro"], each.target))
    return result


class TemporaryMount:
    """A context in which mounts are at a directory of their own, whose path it gives; afterwards both are gone."""

    def __init__(self, mounts: Iterable[MountLike], directory: str | None = None) -> None:
        """`directory` is where the mount point is made; by default the system's place for temporary files."""
        self._mounts = list(mounts)
        self._directory = directory
        self._path = ""

    def __enter__(self) -> str:
        import tempfile

        self._path = tempfile.mkdtemp(prefix="mount-", dir=self._directory)
        try:
            mount_all(self._mounts, self._path)
        except BaseException:
            os.rmdir(self._path)
            raise
        return self._path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Detached, so that a straggler's open file cannot keep the mount point in place.
        unmount_all(self._path, MNT_DETACH)
        os.rmdir(self._path)


def enter_private_namespace() -> None:
    """Give this process (one thread) a mount namespace of its own: its mounts go with it, others' come and go.

    Raises OSError (EPERM without CAP_SYS_ADMIN).
    """
    check(libc.unshare(CLONE_NEWNS))
    set_propagation("/", MS_REC | MS_SLAVE)


def _mount_at(what: MountLike, target: str) -> None:
    options: Sequence[str] = what.options
    directory = ""
    if what.type == "overlay" and sum(len(os.fsencode(option)) + 1 for option in options) >= _OPTIONS_SIZE:
        directory, options = _relative_lowerdirs(options)
    loop = "loop" in options
    flags, propagation, data = parse_options(option for option in options if option != "loop")
    if len(os.fsencode(data)) >= _OPTIONS_SIZE:
        raise OSError(errno.E2BIG, f"mount options exceed {_OPTIONS_SIZE} bytes", target)
    mounted = False
    try:
        # The kernel reads MS_BIND with MS_REMOUNT as the change of one mount's flags, which comes last here.
        if not (flags & MS_BIND and flags & MS_REMOUNT):
            if loop:
                _mount_loop(what.source, target, what.type, flags, data)
            else:
                _mount_from(directory, what.source, target, what.type, flags, data)
            mounted = not flags & MS_REMOUNT
        if propagation:
            set_propagation(target, propagation)
        if flags & MS_BIND and flags & ~(MS_BIND | MS_REC | MS_SILENT):
            _remount_bind(target, flags)
    except OSError:
        if mounted:
            umount(target, MNT_DETACH)
        raise


def _mount_loop(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    from wherry.linux import loop

    fd, device = loop.attach(source, read_only=bool(flags & MS_RDONLY))
    try:
        mount(device, target, fstype, flags, data)
    finally:
        # The device goes when its last user does: with this descriptor if the mount failed, else with the mount.
        os.close(fd)


def _mount_from(directory: str, source: str, target: str, fstype: str, flags: int, data: str) -> None:
    if not directory:
        mount(source, target, fstype, flags, data)
        return
    target = os.path.abspath(target)
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(directory)
        try:
            mount(source, target, fstype, flags, data)
        finally:
            os.fchdir(before)
    finally:
        os.close(before)


#: statvfs(3)'s flags and mount(2)'s: the kernel refuses to drop those that a more privileged namespace has set.
LOCKED = (
    (os.ST_RDONLY, MS_RDONLY),
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
    (os.ST_NOATIME, MS_NOATIME),
    (os.ST_NODIRATIME, MS_NODIRATIME),
    (os.ST_RELATIME, MS_RELATIME),
)


def _remount_bind(target: str, flags: int) -> None:
    """A bind takes its flags from what it binds; only a remount sets others, and only for the top mount."""
    flags = flags & ~MS_REC | MS_BIND | MS_REMOUNT
    try:
        mount("", target, "", flags)
    except PermissionError:
        present = os.statvfs(target).f_flag
        mount("", target, "", flags | sum(flag for seen, flag in LOCKED if present & seen and not flags & flag))


def _relative_lowerdirs(options: Sequence[str]) -> tuple[str, list[str]]:
    """Return the directory that the lower directories have in common, and the options with them relative to it."""
    at = next((index for index, option in enumerate(options) if option.startswith("lowerdir=")), None)
    if at is None or "\\" in options[at]:  # an escaped colon: not ours to take apart
        return "", list(options)
    lowers = options[at].removeprefix("lowerdir=").split(":")
    # The kernel reads an empty name as the mark of data-only layers, and a relative path has no common directory.
    if len(lowers) < 2 or not all(lower.startswith("/") for lower in lowers):
        return "", list(options)
    directory = os.path.commonpath([os.path.dirname(lower) for lower in lowers])
    if directory == "/":
        return "", list(options)
    relative = ":".join(os.path.relpath(lower, directory) for lower in lowers)
    others = [_absolute(option) if index != at else f"lowerdir={relative}" for index, option in enumerate(options)]
    return directory, others


def _absolute(option: str) -> str:
    name, is_path, path = option.partition("=")
    if is_path and name in ("upperdir", "workdir"):
        return f"{name}={os.path.abspath(path)}"
    return option


def _read_only_overlay(options: Sequence[str]) -> list[str]:
    result = []
    upper = next((option.removeprefix("upperdir=") for option in options if option.startswith("upperdir=")), "")
    for option in options:
        if option.startswith(("upperdir=", "workdir=")) or option in ("ro", "rw", "volatile"):
            continue
        if upper and option.startswith("lowerdir="):
            option = f"lowerdir={upper}:{option.removeprefix('lowerdir=')}"
        result.append(option)
    return [*result, "ro"]


def _open_below(root: str, path: str) -> int:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(fd, path, os.O_PATH)
    finally:
        os.close(fd)

"""A container's mounts: what they bind is opened by the runtime, they are put in place by the container's process.

OCI runtime specification, config.md, "Mounts". Every destination is reached by a descriptor that cannot lead out of the
root file system, and mounted on by that descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import Unknown
from wherry.linux import detached
from wherry.linux.mount import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_NOSYMFOLLOW,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_SHARED,
    MS_STRICTATIME,
    mount,
)
from wherry.linux.openat2 import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, open_in_root, openat2
from wherry.linux.statfs import PROC_SUPER_MAGIC, TMPFS_MAGIC, filesystem_type
from wherry.runc import cgroup_mounts, id_maps
from wherry.runc.mount_options import MountOptions, parse_mount_options
from wherry.runc.root_path import exists, make_directory, make_file, open_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

#: What of mount(2)'s flags a remount of one mount may change.
_PER_MOUNT = (
    MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME
    | MS_NOSYMFOLLOW
)  # fmt: skip

#: Below /proc nothing may be mounted but where images of LXCFS and the like are put, as with runc.
_PROC_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


class PreparedMount:
    """A mount that is ready to be put in place."""

    __slots__ = ("cgroups", "destination", "is_directory", "label", "options", "source", "tree", "type")

    def __init__(self, destination: str, type: str, source: str, options: MountOptions, label: str) -> None:
        self.destination = destination
        self.type = type
        self.source = source
        self.options = options
        #: Of SELinux, "" for none.
        self.label = label
        #: A descriptor of what is to be bound; -1 where the container's process has to open it.
        self.tree = -1
        self.is_directory = True
        #: For type "cgroup": where the container is in each hierarchy.
        self.cgroups: Mapping[str, str] = {}

    @property
    def late_read_only(self) -> bool:
        """Whether it is made read-only at last: other mounts and devices are still to be put in it."""
        return bool(self.options.flags & MS_RDONLY) and (self.type == "tmpfs" or self.destination == "/dev")


def prepare_mount(entry: Mapping[str, Any], bundle: str, label: str, cgroups: Mapping[str, str]) -> PreparedMount:
    """Sort out an entry of `mounts`. InvalidArgument."""
    options = parse_mount_options(entry.get("options") or ())
    destination = os.path.normpath("/" + entry["destination"]).replace("//", "/", 1)
    kind = "bind" if options.is_bind else entry.get("type") or "none"
    source = entry.get("source") or ""
    if kind == "bind":
        if not options.is_bind:
            options.flags |= MS_BIND
        source = os.path.normpath(os.path.join(bundle, source))
    prepared = PreparedMount(destination, kind, source, options, label)
    prepared.cgroups = cgroups
    _check_destination(prepared)
    return prepared


def _check_destination(prepared: PreparedMount) -> None:
    path = prepared.destination
    if path == "/":
        raise Unknown(f'error mounting "{prepared.source}" to rootfs at "/": that is what the rest is mounted in')
    if path == "/proc" and prepared.type not in ("proc", "bind"):
        raise Unknown(f'"/proc" cannot be mounted because it is not of type proc: {prepared.type}')
    if path.startswith("/proc/") and path not in _PROC_ALLOWED:
        raise Unknown(f'"{path}" cannot be mounted because it is inside /proc')


def open_source(
    prepared: PreparedMount, entry: Mapping[str, Any], maps: id_maps.IdMaps | None, propagation: int
) -> None:
    """Open what a bind mount binds, with the options that it carries. Takes CAP_SYS_ADMIN. Unknown, with the path.

    `propagation` is that of the container's root file system.

    Done before the container's process has its own mount and user namespace: there it might not reach the path. Left
    to it, in a mount namespace that is not this process's user namespace's: an engine of a user's may have made the
    latter alone.
    """
    try:
        tree = detached.open_tree(prepared.source, recursive=prepared.options.is_recursive)
    except OSError as error:
        if error.errno == errno.EPERM:
            return
        raise _failed(prepared, error) from None
    prepared.tree = tree
    try:
        _check_proc(prepared)
        prepared.is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        if propagation & MS_REC and not propagation & MS_SHARED:
            # As a bind of a mount of the container's own namespace would be; with MS_SHARED it stays the host's peer.
            detached.set_attributes(tree, propagation=propagation & ~MS_REC, recursive=True)
        _set_attributes(prepared)
        if prepared.options.idmap or entry.get("uidMappings"):
            own = id_maps.IdMaps.of(entry.get("uidMappings"), entry.get("gidMappings")) or maps
            if own is None:
                raise Unknown(f"mount {prepared.destination}: an idmapped mount needs mappings")
            userns = own.open_namespace()
            try:
                recursive = prepared.options.idmap == "ridmap"
                detached.set_attributes(tree, set=detached.MOUNT_ATTR_IDMAP, userns=userns, recursive=recursive)
            finally:
                os.close(userns)
    except OSError as error:
        raise _failed(prepared, error) from None


def _check_proc(prepared: PreparedMount) -> None:
    """Refuse to bind to /proc what would only look like it (CVE-2019-16884). Unknown, OSError."""
    if prepared.destination == "/proc" and filesystem_type(prepared.tree) != PROC_SUPER_MAGIC:
        raise Unknown('"/proc" cannot be mounted because it is not of type proc')


def _set_attributes(prepared: PreparedMount) -> None:
    set, clear = prepared.options.attributes()
    if set or clear:
        detached.set_attributes(prepared.tree, set=set, clear=clear)


def _failed(prepared: PreparedMount, error: OSError) -> Unknown:
    reason = (error.strerror or str(error)).lower()
    where = f'error mounting "{prepared.source}" to rootfs at "{prepared.destination}"'
    if prepared.type == "bind" and error.filename == prepared.source:
        return Unknown(f"{where}: stat {prepared.source}: {reason}")
    flags = f", flags: {prepared.options.flags:#x}" if prepared.options.flags else ""
    options = [*prepared.options.data, *([f'context="{prepared.label}"'] if prepared.label else [])]
    data = f", data: {','.join(options)}" if options and prepared.type != "bind" else ""
    return Unknown(f"{where}: mount {prepared.source}:{prepared.destination}{flags}{data}: {reason}")


# -- in the container's process ---------------------------------------------------------------------------------------


def put_in_place(prepared: PreparedMount, root: int) -> None:
    """Mount it below a root directory. Unknown, naming source and destination."""
    try:
        if prepared.type == "bind":
            _bind(prepared, root)
        elif prepared.type == "cgroup":
            cgroup_mounts.mount_cgroups(root, prepared.destination, prepared.cgroups, prepared.options.flags)
        else:
            _mount(prepared, root)
        _finish(prepared, root)
    except OSError as error:
        raise _failed(prepared, error) from None


def _bind(prepared: PreparedMount, root: int) -> None:
    if prepared.tree < 0:
        prepared.tree = detached.open_tree(prepared.source, recursive=prepared.options.is_recursive)
        _check_proc(prepared)
        prepared.is_directory = stat.S_ISDIR(os.fstat(prepared.tree).st_mode)
        _set_attributes(prepared)
    make = make_directory if prepared.is_directory else make_file
    target = make(root, prepared.destination)
    try:
        detached.attach(prepared.tree, target)
    finally:
        os.close(target)


def _mount(prepared: PreparedMount, root: int) -> None:
    options = prepared.options
    data = list(options.data)
    mode = -1
    if prepared.type in ("proc", "sysfs"):
        target = _real_directory(root, prepared.destination)
    else:
        existed = exists(root, prepared.destination)
        target = make_directory(root, prepared.destination)
        if prepared.type == "tmpfs" and existed and not any(each.startswith("mode=") for each in data):
            mode = stat.S_IMODE(os.fstat(target).st_mode)
    try:
        if prepared.label and prepared.type not in ("proc", "sysfs"):
            data.append(f'context="{prepared.label}"')
        flags = options.flags & ~MS_RDONLY if prepared.late_read_only else options.flags
        copied = _children(target) if options.copy_up else []
        if copied:
            _mount_and_copy(prepared, root, target, flags, ",".join(data), copied)
        else:
            mount(prepared.source, f"/proc/self/fd/{target}", prepared.type, flags & ~MS_REC, ",".join(data))
        if mode >= 0:
            _set_mode(root, prepared.destination, mode)
    finally:
        os.close(target)


def _set_mode(root: int, destination: str, mode: int) -> None:
    """Give a new tmpfs the mode of the directory that it covers."""
    top = open_in_root(root, destination.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        if filesystem_type(top) == TMPFS_MAGIC:
            os.fchmod(top, mode)
    finally:
        os.close(top)


def _real_directory(root: int, path: str) -> int:
    """Return a directory with no link on its way: elsewhere they would be other than they seem (CVE-2019-19921)."""
    made = make_directory(root, path)
    try:
        direct = openat2(
            root,
            path.lstrip("/") or ".",
            os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
            resolve=RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unknown(f"filesystem at {path!r} must be mounted on an ordinary directory") from None
        raise
    finally:
        os.close(made)
    return direct


def _children(directory: int) -> list[str]:
    with_access = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.listdir(with_access)
    finally:
        os.close(with_access)


def _mount_and_copy(prepared: PreparedMount, root: int, target: int, flags: int, data: str, names: list[str]) -> None:
    """ "tmpcopyup": the new file system begins with what lay below it."""
    source = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        mount(prepared.source, f"/proc/self/fd/{target}", prepared.type, flags & ~MS_REC, data)
        # The descriptor is of what lies below the mount now.
        top = open_in_root(root, prepared.destination.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY)
        try:
            if filesystem_type(top) != TMPFS_MAGIC:
                raise Unknown(f"{prepared.destination} was replaced while it was mounted on")
            for name in names:
                _copy(source, top, name)
        finally:
            os.close(top)
    finally:
        os.close(source)


def _copy(source: int, target: int, name: str) -> None:
    """Copy an entry with all below it, links as links; owners, modes and times with it."""
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner, copy = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
        try:
            for each in os.listdir(inner):
                _copy(inner, copy, each)
        finally:
            os.close(inner)
            os.close(copy)
    elif kind == stat.S_IFREG:
        _copy_file(source, target, name)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if kind != stat.S_IFLNK:
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: str) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writing = os.open(name, flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(writing, reading, None, 1 << 20):
                continue
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _finish(prepared: PreparedMount, root: int) -> None:
    """Set what only a mount that is there can have: propagation, and attributes of all below it."""
    options = prepared.options
    if prepared.tree >= 0:
        mounted = prepared.tree
    elif options.propagations or options.recursive_set or options.recursive_clear:
        mounted = open_path(root, prepared.destination)
    else:
        return
    try:
        if options.recursive_set or options.recursive_clear:
            set, clear = options.recursive_set, options.recursive_clear
            detached.set_attributes(mounted, set=set, clear=clear, recursive=True)
        for propagation, recursive in options.propagations:
            detached.set_attributes(mounted, propagation=propagation, recursive=recursive)
    finally:
        os.close(mounted)
        prepared.tree = -1


def make_read_only(prepared: PreparedMount, root: int) -> None:
    """Make a mount read-only whose content is complete now. Unknown."""
    fd = open_path(root, prepared.destination)
    try:
        # By the descriptor: whoever is inside the root has no /proc but the container's to name it by.
        detached.set_attributes(fd, set=detached.MOUNT_ATTR_RDONLY)
    except OSError as error:
        raise _failed(prepared, error) from None
    finally:
        os.close(fd)

"""A container's root file system: prepared, and entered. mount_namespaces(7), pivot_root(2)."""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.linux import foreign
from wherry.linux import mount as m
from wherry.linux.libc import check, libc
from wherry.runc.mounts import make_read_only, put_in_place
from wherry.runc.root_path import make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.runc.mounts import PreparedMount

PROPAGATIONS = {
    "": m.MS_SLAVE | m.MS_REC,
    "shared": m.MS_SHARED,
    "rshared": m.MS_SHARED | m.MS_REC,
    "slave": m.MS_SLAVE,
    "rslave": m.MS_SLAVE | m.MS_REC,
    "private": m.MS_PRIVATE,
    "rprivate": m.MS_PRIVATE | m.MS_REC,
    "unbindable": m.MS_UNBINDABLE,
    "runbindable": m.MS_UNBINDABLE | m.MS_REC,
}


def open_root(path: str, propagation: int) -> int:
    """Make a directory a mount of this process's namespace, out of which nothing spreads, and return it. Unknown."""
    try:
        m.set_propagation("/", propagation)
        if propagation & m.MS_SHARED or propagation & m.MS_UNBINDABLE or not propagation & m.MS_REC:
            # pivot_root(2) refuses a root whose parent mount is shared, and what is put below must not spread.
            _make_parent_private(path)
        m.mount(path, path, "bind", m.MS_BIND | m.MS_REC)
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise Unknown(f"error preparing rootfs {path}: {reason}") from None


def _make_parent_private(path: str) -> None:
    mount_point, optional = "/", ""
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.decode(errors="surrogateescape").split(" ")
            point = fields[4].encode("latin-1", "replace").decode("unicode_escape") if "\\" in fields[4] else fields[4]
            inside = point == "/" or path == point or path.startswith(point + "/")
            if inside and len(point) >= len(mount_point):
                mount_point, optional = point, " ".join(fields[6 : fields.index("-")])
    if "shared:" in optional:
        m.set_propagation(mount_point, m.MS_PRIVATE)


def mount_all(mounts: Sequence[PreparedMount], root: int, enter_cgroup: Callable[[], None]) -> None:
    """Put every mount in its place, in their order. Unknown, naming the one that failed."""
    for each in mounts:
        if each.type == "cgroup":
            enter_cgroup()
        put_in_place(each, root)


def finish_mounts(mounts: Sequence[PreparedMount]) -> None:
    """Make read-only what had to be written to until now; called inside the root. Unknown."""
    late = [each for each in mounts if each.late_read_only]
    if not late:
        return
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in late:
            make_read_only(each, root)
    finally:
        os.close(root)


def make_cwd(root: int, path: str) -> None:
    """Make a working directory that the image lacks, in it and nowhere else. Unknown."""
    try:
        os.close(make_directory(root, path))
    except OSError as error:
        raise Unknown(f"mkdir {path}: {(error.strerror or '').lower()}") from None


def enter(root: int, *, pivot: bool, has_namespace: bool) -> None:
    """Make a directory the root of this process, and leave nothing of the old one within reach. Unknown."""
    try:
        if not has_namespace:
            os.fchdir(root)
            os.chroot(".")
        elif pivot:
            _pivot(root)
        else:
            _move(root)
        os.chdir("/")
    except OSError as error:
        raise Unknown(f"error jailing process inside rootfs: {(error.strerror or '').lower()}") from None


def _pivot(root: int) -> None:
    old = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        # The old root lands on top of the new one (pivot_root(2), NOTES): no directory has to be made for it.
        check(libc.pivot_root(b".", b"."))
        os.fchdir(old)
        # Taking it off must not spread to the host.
        m.set_propagation(".", m.MS_SLAVE | m.MS_REC)
        m.umount(".", m.MNT_DETACH)
    finally:
        os.close(old)


def _move(root: int) -> None:
    """Move the root mount over "/", for initial RAM disks, from which pivot_root(2) cannot move away."""
    path = os.readlink(f"/proc/self/fd/{root}")
    # A full proc or sysfs outside of the root would let a user namespace mount one without its restrictions.
    for point in _mount_points_outside(path, ("proc", "sysfs")):
        m.set_propagation(point, m.MS_SLAVE | m.MS_REC)
        try:
            m.umount(point, m.MNT_DETACH)
        except PermissionError:
            m.mount("tmpfs", point, "tmpfs")  # locked together with others by a user namespace: covered instead
    os.fchdir(root)
    m.mount(path, "/", "", m.MS_MOVE)
    os.chroot(".")


def _mount_points_outside(root: str, types: tuple[str, ...]) -> list[str]:
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _dash, tail = line.partition(" - ")
            point = fields.split(" ")[4]
            if tail.split(" ")[0] in types and point != root and not point.startswith(root + "/"):
                found.append(point)
    return found


def make_root_read_only() -> None:
    """Make the root mount read-only, its other flags as they are. Unknown."""
    present = os.statvfs("/").f_flag
    flags = sum(flag for seen, flag in m.LOCKED if present & seen)
    try:
        m.mount("", "/", "", m.MS_BIND | m.MS_REMOUNT | m.MS_RDONLY | flags)
    except OSError as error:
        raise Unknown(f"error setting rootfs as readonly: {(error.strerror or '').lower()}") from None


libc.pivot_root.argtypes = [foreign.c_char_p, foreign.c_char_p]

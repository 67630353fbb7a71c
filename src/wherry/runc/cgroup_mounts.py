"""The mount of type "cgroup": what of the control groups a container sees. cgroups(7), cgroup_namespaces(7)."""

from __future__ import annotations

import errno
import os
import stat

from wherry.linux import detached
from wherry.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, mount
from wherry.runc.root_path import make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = "/sys/fs/cgroup"

#: What a mount made anew has in any case, as with runc.
_DEFAULT = MS_NOSUID | MS_NODEV | MS_NOEXEC


def own_cgroups() -> dict[str, str]:
    """Return where this process is, by mounted hierarchy as its directory's name is ("cpu,cpuacct"); "" for v2."""
    found = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _number, controllers, path = line.rstrip("\n").split(":", 2)
            found[controllers.removeprefix("name=")] = path
    return found


def below_root(directory: str) -> str:
    """Return a cgroup's path in its hierarchy, of its directory's."""
    below = directory.removeprefix(_ROOT).lstrip("/")
    if os.path.exists(f"{_ROOT}/cgroup.controllers"):
        return f"/{below}"
    return f"/{below.partition('/')[2]}"


def mount_cgroups(root: int, destination: str, cgroups: Mapping[str, str], flags: int) -> None:
    """Mount the control groups: v2's hierarchy, or v1's side by side in a tmpfs. OSError.

    With a cgroup namespace of the container's own (`cgroups` is empty then) they are mounted anew; without one the
    container's own directories are bound.
    """
    target = make_directory(root, destination)
    try:
        if os.path.exists(f"{_ROOT}/cgroup.controllers"):
            _mount_v2(target, cgroups, flags)
        else:
            _mount_v1(root, target, destination, cgroups, flags)
    finally:
        os.close(target)


def _mount_v2(target: int, cgroups: Mapping[str, str], flags: int) -> None:
    if not cgroups:
        try:
            mount("cgroup", f"/proc/self/fd/{target}", "cgroup2", flags | _DEFAULT)
            return
        except PermissionError:
            # The cgroup namespace belongs to another user namespace. What is bound without one is the container's own
            # directory; here it is not known, and the whole hierarchy is not to be bound instead (CVE-2023-25809).
            raise OSError(errno.EPERM, "the cgroup namespace is not of the container's user namespace") from None
    else:
        _bind(_ROOT + cgroups.get("", "/"), target, flags)


def _mount_v1(root: int, target: int, destination: str, cgroups: Mapping[str, str], flags: int) -> None:
    mode = stat.S_IMODE(os.fstat(target).st_mode)
    mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags & ~MS_RDONLY | _DEFAULT, "mode=755")
    for controllers, mounted in _hierarchies().items():
        inner = make_directory(root, f"{destination}/{os.path.basename(mounted)}")
        try:
            if cgroups:
                _bind(mounted + cgroups.get(controllers, "/"), inner, flags)
            else:
                named = controllers if controllers not in ("systemd",) else "none,name=systemd"
                source = "systemd" if controllers == "systemd" else "cgroup"
                mount(source, f"/proc/self/fd/{inner}", "cgroup", flags | _DEFAULT, named)
        finally:
            os.close(inner)
    tmpfs = make_directory(root, destination)
    try:
        for controllers, mounted in _hierarchies().items():
            directory = os.path.basename(mounted)
            for name in controllers.split(","):
                if name != directory and "," in controllers:
                    os.symlink(directory, name, dir_fd=tmpfs)
        # As with runc: that of what it covers, which in sysfs nobody may write to.
        os.chmod(f"/proc/self/fd/{tmpfs}", mode)
    finally:
        os.close(tmpfs)


def _hierarchies() -> dict[str, str]:
    """Return v1's mount points by their controllers, in the order of their mounting."""
    own = own_cgroups()
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _dash, tail = line.partition(" - ")
            kind, _source, options = tail.split(" ", 2)
            if kind != "cgroup":
                continue
            path = fields.split(" ")[4]
            named = {option.removeprefix("name=") for option in options.strip().split(",")}
            for controllers in own:
                if controllers and set(controllers.split(",")) <= named and path.startswith(_ROOT):
                    found.setdefault(controllers, path)
    return found


def _bind(source: str, target: int, flags: int) -> None:
    tree = detached.open_tree(source, recursive=False)
    try:
        set = detached.MOUNT_ATTR_RDONLY if flags & MS_RDONLY else 0
        for flag, attribute in (
            (MS_NOSUID, detached.MOUNT_ATTR_NOSUID),
            (MS_NODEV, detached.MOUNT_ATTR_NODEV),
            (MS_NOEXEC, detached.MOUNT_ATTR_NOEXEC),
        ):
            set |= attribute if flags & flag else 0
        detached.set_attributes(tree, set=set)
        detached.attach(tree, target)
    finally:
        os.close(tree)

"""Device nodes of a container. OCI runtime specification, config-linux.md, "Devices" and "Default Devices"."""

from __future__ import annotations

import os
import stat

from wherry.errors import InvalidArgument
from wherry.linux import detached
from wherry.runc.root_path import make_directory, make_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_DEFAULT = (
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/full", 1, 7),
    ("/dev/tty", 5, 0),
    ("/dev/zero", 1, 5),
    ("/dev/urandom", 1, 9),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)


class Device:
    """A node to be made."""

    __slots__ = ("gid", "mode", "path", "rdev", "uid")

    def __init__(self, path: str, mode: int, rdev: int, uid: int, gid: int) -> None:
        self.path = path
        #: With the type.
        self.mode = mode
        self.rdev = rdev
        self.uid = uid
        self.gid = gid


def wanted_devices(entries: Sequence[Mapping[str, Any]]) -> list[Device]:
    """Return the devices of `linux.devices` and the default ones that are not among them. InvalidArgument."""
    devices: dict[str, Device] = {}
    for entry in entries:
        path, kind = entry.get("path") or "", entry.get("type")
        if kind not in _TYPES or not path.strip("/"):
            raise InvalidArgument(f'invalid device type "{kind or ""}" of {path!r}: it has a path, and is c, b, u or p')
        path = os.path.normpath(f"/{path.lstrip('/')}")
        mode = _TYPES[kind] | (entry.get("fileMode", 0o666) & 0o777)
        rdev = 0 if kind == "p" else os.makedev(entry.get("major", 0), entry.get("minor", 0))
        devices.setdefault(path, Device(path, mode, rdev, entry.get("uid") or 0, entry.get("gid") or 0))
    default = [Device(path, stat.S_IFCHR | 0o666, os.makedev(*number), 0, 0) for path, *number in _DEFAULT]
    return [*(device for device in default if device.path not in devices), *devices.values()]


def make_devices(root: int, devices: Sequence[Device], *, bind: bool) -> None:
    """Make nodes below a root directory; in a user namespace, which may make none, `bind` the host's. OSError."""
    parents: dict[str, int] = {}
    try:
        for device in devices:
            directory, _slash, name = device.path.rpartition("/")
            if directory not in parents:
                parents[directory] = make_directory(root, directory or "/")
            if bind:
                _bind(root, device)
                continue
            try:
                _make(parents[directory], name, device)
            except PermissionError:
                _bind(root, device)
    finally:
        for fd in parents.values():
            os.close(fd)


def _make(parent: int, name: str, device: Device) -> None:
    try:
        os.mknod(name, device.mode, device.rdev, dir_fd=parent)
    except FileExistsError:
        return  # what the image or a mount has there stays, as with runc
    if (device.uid, device.gid) != (0, 0):
        os.chown(name, device.uid, device.gid, dir_fd=parent, follow_symlinks=False)


def _bind(root: int, device: Device) -> None:
    tree = detached.open_tree(device.path, recursive=False)
    try:
        target = make_file(root, device.path, 0o666)
        try:
            detached.attach(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def make_links(dev: int) -> None:
    """Make the links of a /dev directory: the standard streams', the kernel's memory, the terminals' clone device.

    OSError.
    """
    links = [*_LINKS, ("core", "/proc/kcore")] if os.path.exists("/proc/kcore") else [*_LINKS]
    for name, target in links:
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            continue
    try:
        os.unlink("ptmx", dir_fd=dev)
    except FileNotFoundError:
        pass  # it is made in the next line
    os.symlink("pts/ptmx", "ptmx", dir_fd=dev)

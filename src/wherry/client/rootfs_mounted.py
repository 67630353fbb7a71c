"""Looking into a root file system by having the kernel put it together: right for every layer, slower to import."""

from __future__ import annotations

import os

from wherry.client.rootfs import read_regular
from wherry.linux import detached
from wherry.linux.mount import TemporaryMount, read_only
from wherry.linux.openat2 import open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.api.types.types_pb2 import Mount


def read_files_mounted(mounts: Sequence[Mount], paths: Sequence[str]) -> list[bytes]:
    """Return the contents of files in the tree that mounts show; b"" for what is not there.

    No link leads out of the tree. InvalidArgument for what is no small regular file.
    """
    try:
        root = _detached(mounts)
    except OSError:
        # An old kernel, or more layers than one of its strings holds.
        with TemporaryMount(read_only(mounts)) as directory:
            return read_files_below(directory, paths)
    return _read_below(root, paths)


def read_files_below(directory: str, paths: Sequence[str]) -> list[bytes]:
    """Return the contents of files below a directory, as `read_files_mounted` does."""
    return _read_below(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), paths)


def _detached(mounts: Sequence[Mount]) -> int:
    """Return a descriptor of the tree, mounted nowhere: there is nothing to forget to unmount."""
    if len(mounts) != 1:
        raise OSError("more than one mount")
    mount = mounts[0]
    if mount.type == "bind":
        return detached.clone_tree(mount.source)
    if mount.type != "overlay":
        raise OSError(f"a mount of type {mount.type}")
    options = dict(option.split("=", 1) for option in mount.options if "=" in option)
    upper = [options["upperdir"]] if "upperdir" in options else []
    return detached.overlay([*upper, *options["lowerdir"].split(":")])


def _read_below(root: int, paths: Sequence[str]) -> list[bytes]:
    try:
        return [_read(root, path) for path in paths]
    finally:
        os.close(root)


def _read(root: int, path: str) -> bytes:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    try:
        return read_regular(fd, path)
    finally:
        os.close(fd)

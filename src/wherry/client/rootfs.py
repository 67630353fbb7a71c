"""Looking into a container's root file system before there is a container."""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import InvalidArgument
from wherry.oci.user import MAX_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.api.types.types_pb2 import Mount

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class _Unusual(Exception):
    """A layer has something in the way that only the kernel's own overlay can be asked about."""


def read_files(mounts: Sequence[Mount], paths: Sequence[str]) -> list[bytes]:
    """Return the contents of files, each in a directory of the root, in the tree that mounts would show.

    b"" for what is not there. No link leads out of the tree, and only regular files of at most a mebibyte are read:
    InvalidArgument for others.
    """
    try:
        layers = _layers(mounts)
        return [_read_in_layers(layers, path) for path in paths]
    except _Unusual:
        from wherry.client.rootfs_mounted import read_files_mounted

        return read_files_mounted(mounts, paths)


def _layers(mounts: Sequence[Mount]) -> list[str]:
    """Return the directories that a mount lays over each other, the top one first."""
    if len(mounts) != 1 or mounts[0].type not in ("bind", "overlay"):
        raise _Unusual
    if mounts[0].type == "bind":
        return [mounts[0].source]
    options = dict(option.split("=", 1) for option in mounts[0].options if "=" in option)
    upper = [options["upperdir"]] if "upperdir" in options else []
    return [*upper, *options.get("lowerdir", "").split(":")]


def _read_in_layers(layers: Sequence[str], path: str) -> bytes:
    """Look for a file as overlayfs does: in the highest layer that has it, unless one above hides it."""
    directory, _, name = path.strip("/").partition("/")
    for layer in layers:
        try:
            root = os.open(layer, _DIRECTORY)
        except OSError:
            raise _Unusual from None
        try:
            folder = os.open(directory, _DIRECTORY, dir_fd=root)
        except FileNotFoundError:
            continue
        except OSError:
            # A link, or a whiteout: a device where the directory would be.
            raise _Unusual from None
        finally:
            os.close(root)
        try:
            found = _read(folder, name)
            if found is not None:
                return found
            if _is_opaque(folder):
                return b""
        finally:
            os.close(folder)
    return b""


def _read(folder: int, name: str) -> bytes | None:
    """Return a regular file's content, None if there is nothing of the name."""
    try:
        fd = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError:
        raise _Unusual from None  # a link, a device
    try:
        return read_regular(fd, name)
    finally:
        os.close(fd)


def read_regular(fd: int, name: str) -> bytes:
    """Return the content of an open file that must be regular and small. InvalidArgument otherwise."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
        raise InvalidArgument(f"{name} in the container's root is no regular file of at most {MAX_FILE} bytes")
    return os.read(fd, MAX_FILE)


def _is_opaque(folder: int) -> bool:
    for attribute in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(folder, attribute) == b"y":
                return True
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
                raise _Unusual from None
    return False

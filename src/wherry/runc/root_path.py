"""Paths in a container's root file system: opened, and made where they are missing, without ever leaving it.

What lies there belongs to the image, and other containers may change it meanwhile (CVE-2021-30465): every step goes by
a descriptor that openat2(2) has resolved inside the root, and what is done to a path is done to its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.linux.openat2 import open_in_root

#: As the kernel's own limit, path_resolution(7).
_MAX_LINKS = 40


def open_path(root: int, path: str, flags: int = 0) -> int:
    """Return an O_PATH descriptor of what a path names inside a root. Raises OSError."""
    return open_in_root(root, path.lstrip("/") or ".", os.O_PATH | flags)


def exists(root: int, path: str) -> bool:
    """Tell whether a path names something inside a root. OSError but for what tells that it does not."""
    fd = _existing(root, path)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def make_directory(root: int, path: str, mode: int = 0o755) -> int:
    """Return an O_PATH descriptor of a directory; it and the ones above it are made if they are missing. OSError."""
    fd = _existing(root, path)
    return fd if fd >= 0 else _make(root, path, mode, is_directory=True)


def make_file(root: int, path: str, mode: int = 0o755) -> int:
    """Return an O_PATH descriptor of a file, made empty if it is missing, with the directories above it. OSError."""
    fd = _existing(root, path)
    return fd if fd >= 0 else _make(root, path, mode, is_directory=False)


def _existing(root: int, path: str) -> int:
    try:
        return open_path(root, path)
    except FileNotFoundError:
        return -1


def _make(root: int, path: str, mode: int, *, is_directory: bool) -> int:
    """Walk down a path as the kernel does, links that lead nowhere yet included, and make what is missing."""
    resolved: list[str] = []
    remaining = [part for part in path.split("/") if part not in ("", ".")]
    links = 0
    while remaining:
        part = remaining.pop(0)
        if part == "..":
            if resolved:
                resolved.pop()
            continue
        parent = open_path(root, "/".join(resolved), os.O_DIRECTORY)
        try:
            link = _step(parent, part, mode, is_directory=is_directory or bool(remaining))
        finally:
            os.close(parent)
        if link is None:
            resolved.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        if link.startswith("/"):
            resolved.clear()
        remaining[:0] = [each for each in link.split("/") if each not in ("", ".")]
    return open_path(root, "/".join(resolved))


def _step(parent: int, name: str, mode: int, *, is_directory: bool) -> str | None:
    """Make a name in a directory unless it is there; return where it leads if it is a symbolic link."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        if is_directory:
            os.mkdir(name, mode, dir_fd=parent)
        else:
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, mode, dir_fd=parent))
        return None
    if stat.S_ISLNK(found.st_mode):
        return os.readlink(name, dir_fd=parent)
    return None

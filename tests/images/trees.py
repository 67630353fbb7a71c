"""Archives, and trees as values that can be compared."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Tree = dict[str, dict[str, Any]]


def read_tree(root: Path | str) -> Tree:
    """Everything about every file below root, by its path; hard links as the paths that share an inode."""
    found: Tree = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    base = os.fspath(root)
    for directory, directories, files in os.walk(base):
        for name in directories + files:
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            kind = stat.S_IFMT(seen.st_mode)
            relative = os.path.relpath(path, base)
            entry: dict[str, Any] = {
                "mode": oct(seen.st_mode),
                "owner": (seen.st_uid, seen.st_gid),
                "mtime": seen.st_mtime_ns,
                "xattrs": {
                    key: os.getxattr(path, key, follow_symlinks=False)
                    for key in os.listxattr(path, follow_symlinks=False)
                },
            }
            if kind == stat.S_IFREG:
                entry["content"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif kind == stat.S_IFLNK:
                entry["link"] = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                entry["device"] = (os.major(seen.st_rdev), os.minor(seen.st_rdev))
            if kind != stat.S_IFDIR and seen.st_nlink > 1:
                inodes.setdefault((seen.st_dev, seen.st_ino), []).append(relative)
            found[relative] = entry
    for names in inodes.values():
        for name in names:
            found[name]["names"] = sorted(names)
    return found


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """An archive's entry with a fixed time."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_500_000_000
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(entries: Iterable[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()

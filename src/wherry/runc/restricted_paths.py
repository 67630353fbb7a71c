"""Paths that a container must not read or write: masked, read-only. OCI runtime specification, config-linux.md.

What is covered is a descriptor resolved inside the root file system, and what covers it is the runtime's own, never
something found by a name there (CVE-2025-31133).
"""

from __future__ import annotations

import os
import stat

from wherry.errors import Unknown
from wherry.linux import detached
from wherry.linux.mount import MS_SLAVE
from wherry.runc.root_path import open_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def mask_paths(root: int, paths: Iterable[str], label: str) -> None:
    """Cover files with the host's /dev/null, directories with an empty file system. Unknown, naming the path."""
    options = ["source=tmpfs", "ro"]
    if label:
        options.append(f"context={label}")
    for path in paths:
        target = _open(root, path)
        if target < 0:
            continue
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode):
                cover = detached.new_filesystem("tmpfs", options, detached.MOUNT_ATTR_RDONLY)
            else:
                cover = detached.open_tree("/dev/null", recursive=False)
            try:
                detached.attach(cover, target)
            finally:
                os.close(cover)
        except OSError as error:
            raise Unknown(f"can't mask path {path!r}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(target)


def protect_paths(root: int, paths: Iterable[str]) -> None:
    """Make paths read-only, with all mounts below them. Unknown, naming the path."""
    for path in paths:
        target = _open(root, path)
        if target < 0:
            continue
        try:
            tree = detached.open_tree("", dir_fd=target, recursive=True)
            try:
                detached.set_attributes(tree, set=detached.MOUNT_ATTR_RDONLY, propagation=MS_SLAVE, recursive=True)
                detached.attach(tree, target)
            finally:
                os.close(tree)
        except OSError as error:
            raise Unknown(f"can't make {path!r} read-only: {(error.strerror or '').lower()}") from None
        finally:
            os.close(target)


def _open(root: int, path: str) -> int:
    """Return a descriptor, -1 where there is nothing to restrict."""
    try:
        return open_path(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError as error:
        raise Unknown(f"can't restrict path {path!r}: {(error.strerror or '').lower()}") from None

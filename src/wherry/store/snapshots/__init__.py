"""Snapshots: layered file systems. One `Snapshotter` keeps the records, and a back end of its own the files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from wherry.store.database import Database
from wherry.store.snapshots.backend import Backend, Settle, UnsupportedError
from wherry.store.snapshots.btrfs import Btrfs
from wherry.store.snapshots.erofs import Erofs
from wherry.store.snapshots.native import Copy, Native
from wherry.store.snapshots.overlayfs import Overlayfs
from wherry.store.snapshots.snapshotter import Info, Kind, Snapshotter

__all__ = ["Copy", "Info", "Kind", "Settle", "Snapshotter", "Snapshotters", "snapshotters"]

log = logging.getLogger(__name__)


class Snapshotters(dict[str, Snapshotter]):
    """The snapshotters that work here, by name."""

    def __init__(self) -> None:
        super().__init__()
        #: Why others do not, by name.
        self.failures: dict[str, str] = {}


def snapshotters(database: Database, root: str, copy: Copy, settle: Settle) -> Snapshotters:
    """Return the snapshotters that work below the daemon's root, and the reasons why others do not.

    `copy` copies the contents of one directory to another, empty one; `settle` gives a layer that was applied apart
    from those below what it needs of them. Both may take long, so they are a process's work.
    """
    made = Snapshotters()
    makers: dict[str, Callable[[str], Backend]] = {
        "overlayfs": lambda directory: Overlayfs(directory, settle),
        "native": lambda directory: Native(directory, copy),
        "btrfs": Btrfs,
        "erofs": lambda directory: Erofs(directory, settle),
    }
    for name, make in makers.items():
        try:
            made[name] = Snapshotter(database, name, make(snapshotter_root(root, name)))
        except UnsupportedError as error:
            # containerd's mark of what this system is not made for, which is no error.
            made.failures[name] = f"{error}: skip plugin"
            log.debug("no %s snapshotter: %s", name, error)
        except OSError as error:
            made.failures[name] = str(error)
            log.warning("no %s snapshotter: %s", name, error)
    return made


def snapshotter_root(root: str, name: str) -> str:
    """Return the directory of a snapshotter below the daemon's root."""
    return os.path.join(root, f"io.containerd.snapshotter.v1.{name}")

"""Snapshots: layered file systems. One `Snapshotter` keeps the records; overlayfs and native keep the files."""

from __future__ import annotations

import logging
import os

from wherry.store.database import Database
from wherry.store.snapshots.backend import Settle
from wherry.store.snapshots.native import Copy, Native
from wherry.store.snapshots.overlayfs import Overlayfs
from wherry.store.snapshots.snapshotter import Info, Kind, Snapshotter

__all__ = ["Copy", "Info", "Kind", "Native", "Overlayfs", "Settle", "Snapshotter", "snapshotters"]

log = logging.getLogger(__name__)


def snapshotters(database: Database, root: str, copy: Copy, settle: Settle) -> dict[str, Snapshotter]:
    """Return the snapshotters that work below the daemon's root, by name.

    `copy` copies the contents of one directory to another, empty one; `settle` gives a layer that was applied apart
    from those below what it needs of them. Both may take long, so they are a process's work.
    """
    made = {}
    try:
        overlayfs = Overlayfs(_directory(root, "overlayfs"), settle)
        made["overlayfs"] = Snapshotter(database, "overlayfs", overlayfs)
    except OSError as error:
        log.warning("no overlayfs snapshotter: %s", error)
    made["native"] = Snapshotter(database, "native", Native(_directory(root, "native"), copy))
    return made


def _directory(root: str, name: str) -> str:
    return os.path.join(root, f"io.containerd.snapshotter.v1.{name}")

"""The overlayfs back end: a snapshot is an upper directory over those of its parents."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from wherry.linux import tree
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.ingest import in_thread
from wherry.store.snapshots.backend import PENDING, REBASE, Backend, Settle
from wherry.store.snapshots.directories import Directories
from wherry.store.snapshots.overlay import Overlay


class Overlayfs(Backend):
    """Directories `fs` and `work` for each snapshot, put over each other by the kernel."""

    def __init__(self, root: str, settle: Settle) -> None:
        """Raises OSError where overlayfs cannot be mounted on this file system."""
        self._directories = Directories(root)
        self._settle = settle
        self._overlay = Overlay(root)
        # Whoever applies layers apart makes the marks himself, which takes privileges (containerd's #13389).
        self.capabilities = () if self._overlay.user_xattrs else (REBASE,)

    @property
    def directories(self) -> Directories:
        return self._directories

    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the directory of a new snapshot on these parents, nearest first."""
        made = self.directories.make()
        make_upper(made, active=active)
        if parents:
            copy_root(self._fs(parents[0]), os.path.join(made, "fs"))
        return made

    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Return the mounts that show a snapshot, as containerd 1.6 does."""
        if not parents:
            return [Mount("bind", self._fs(id), ["rw" if active else "ro", "rbind"])]
        if not active and len(parents) == 1:
            return [Mount("bind", self._fs(parents[0]), ["ro", "rbind"])]
        lowers = list(map(self._fs, parents))
        if not active:
            return [self._overlay.mount(lowers)]
        return [self._overlay.mount(lowers, self._fs(id), self.directories.path(id, "work"), volatile=volatile)]

    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure what a snapshot has beyond its parents."""
        return await in_thread(lambda: tree.usage(self._fs(id)))

    async def commit(self, id: int, parents: Sequence[int], *, rebased: bool) -> Usage:
        """Give a layer that was applied apart what it needs of those below, and measure it."""
        lowers = list(map(self._fs, parents))
        if is_pending(self.directories.path(id)):
            await self._settle(self._fs(id), lowers, self.directories.path(id, PENDING))
        if rebased:
            copy_root(lowers[0], self._fs(id))
        return await self.usage(id, parents)

    def _fs(self, id: int) -> str:
        return self.directories.path(id, "fs")


def make_upper(directory: str, *, active: bool) -> None:
    """Make `fs` in a snapshot's directory, the upper directory of an overlay, and `work` for one that is written to."""
    upper = os.path.join(directory, "fs")
    os.mkdir(upper)
    os.chmod(upper, 0o755)  # noqa: S103 — it is the root of a file system
    if active:
        work = os.path.join(directory, "work")
        os.mkdir(work)
        os.chmod(work, 0o711)  # noqa: S103 — as containerd has it; the directory above is closed


def copy_root(lower: str, upper: str) -> None:
    """Give an upper directory the owner and mode of the one below: it is the root that the container sees."""
    seen = os.stat(lower)
    os.chown(upper, seen.st_uid, seen.st_gid)
    os.chmod(upper, stat.S_IMODE(seen.st_mode))


def is_pending(directory: str) -> bool:
    """Say whether the layer in a snapshot's directory needs something of those below."""
    return os.path.exists(os.path.join(directory, PENDING))

"""The native back end: a snapshot is a whole copy of its parent. Slow and large, and works on any file system."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

from wherry.linux import tree
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.ingest import in_thread
from wherry.store.snapshots.backend import Backend
from wherry.store.snapshots.directories import Directories

#: Copies the contents of one directory to another, empty one; may take long, so it is a process's work.
Copy = Callable[[str, str], Awaitable[None]]


class Native(Backend):
    """One directory for each snapshot."""

    def __init__(self, root: str, copy: Copy) -> None:
        self._directories = Directories(root)
        self._copy = copy

    @property
    def directories(self) -> Directories:
        return self._directories

    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the directory of a new snapshot on these parents, nearest first; None where a view shows its parent."""
        if parents and not active:
            return None
        made = self.directories.make()
        try:
            os.chmod(made, 0o755)  # noqa: S103 — it is the root of a file system
            if parents:
                await self._copy(self.directories.path(parents[0]), made)
        except BaseException:
            await self.directories.remove_new(made)
            raise
        return made

    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Return the mounts that show a snapshot: binds, which wait for no disk as it is."""
        shown = id if active or not parents else parents[0]
        return [Mount("bind", self.directories.path(shown), ["rbind", "rw" if active else "ro"])]

    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure a snapshot's whole copy."""
        return await in_thread(lambda: tree.usage(self.directories.path(id)))

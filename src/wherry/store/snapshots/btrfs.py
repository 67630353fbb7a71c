"""The btrfs back end: a snapshot is a subvolume that begins as the kernel's snapshot of its parent's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from wherry.linux import btrfs, mountinfo, tree
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.ingest import in_thread
from wherry.store.snapshots.backend import Backend, UnsupportedError
from wherry.store.snapshots.directories import Directories

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Subvolumes(Directories):
    """Directories that are subvolumes."""

    def fill(self, reserved: str, parent: int | None) -> None:
        """Make a subvolume at a reserved path, from its parent's if it has one. Raises OSError.

        A parent has been committed: from now on nobody writes to it any more, by whatever mount.
        """
        name = os.path.basename(reserved)
        with self._opened() as directory:
            if parent is None:
                btrfs.create(name, directory)
                os.chmod(reserved, 0o755)  # noqa: S103 — it is the root of a file system
                return
            with self._opened(str(parent)) as source:
                if not btrfs.is_read_only(source):
                    btrfs.make_read_only(source)
                btrfs.snapshot(source, name, directory)

    def subvolume_id(self, id: int) -> int:
        """Return the number of a snapshot's subvolume. Raises OSError."""
        with self._opened(str(id)) as subvolume:
            return btrfs.subvolume_id(subvolume)

    def _delete(self, path: str) -> None:
        name = os.path.basename(path)
        with self._opened() as directory:
            try:
                with self._opened(name) as found:
                    is_subvolume = btrfs.is_subvolume(found)
            except (FileNotFoundError, NotADirectoryError):
                is_subvolume = False
            if is_subvolume:
                btrfs.remove(name, directory)
            else:
                tree.remove(path)

    @contextmanager
    def _opened(self, name: str = "") -> Iterator[int]:
        fd = os.open(os.path.join(self.root, "snapshots", name), _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)


class Btrfs(Backend):
    """One subvolume for each snapshot."""

    def __init__(self, root: str) -> None:
        """UnsupportedError where the directory is not on btrfs, in containerd's words."""
        os.makedirs(root, mode=0o700, exist_ok=True)
        kind, self._device = mountinfo.lookup(root)
        if kind != "btrfs":
            raise UnsupportedError(
                f"path {root} ({kind}) must be a btrfs filesystem to be used with the btrfs snapshotter"
            )
        self._subvolumes = Subvolumes(root)

    @property
    def directories(self) -> Directories:
        return self._subvolumes

    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the subvolume of a new snapshot on these parents, nearest first; None where a view shows its parent."""
        if parents and not active:
            return None
        made = self.directories.reserve()
        try:
            await in_thread(lambda: self._subvolumes.fill(made, parents[0] if parents else None))
        except BaseException:
            await self.directories.remove_new(made)
            raise
        return made

    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Return the mount that shows a snapshot, as containerd's: the device's, of one subvolume by its number."""
        shown = id if active or not parents else parents[0]
        number = await in_thread(lambda: self._subvolumes.subvolume_id(shown))
        return [Mount("btrfs", self._device, [f"subvolid={number}", *([] if active else ["ro"])])]

    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure what differs from the parent, as containerd does; blocks that files share are counted in each."""
        path = self.directories.path(id)
        if not parents:
            return await in_thread(lambda: tree.usage(path))
        base = self.directories.path(parents[0])
        return await in_thread(lambda: tree.usage_beyond(base, path))

    async def commit(self, id: int, parents: Sequence[int], *, rebased: bool) -> Usage:
        """Have the disk hold the subvolume, and measure it."""
        usage = await self.usage(id, parents)
        await self.directories.sync()
        return usage

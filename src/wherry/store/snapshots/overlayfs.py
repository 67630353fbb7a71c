"""The overlayfs back end: a snapshot is an upper directory over those of its parents."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from wherry.linux import mount, tree
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.ingest import in_thread
from wherry.store.snapshots.backend import PENDING, REBASE, Backend, Settle
from wherry.store.snapshots.directories import Directories


class Overlayfs(Backend):
    """Directories `fs` and `work` for each snapshot, put over each other by the kernel."""

    def __init__(self, root: str, settle: Settle) -> None:
        """Raises OSError where overlayfs cannot be mounted on this file system."""
        self._directories = Directories(root)
        self._settle = settle
        # An unprivileged mount keeps its marks in other attributes, if the kernel can do that at all (5.11).
        self._user_xattrs = not _in_initial_user_namespace()
        # Whoever applies layers apart makes the marks himself, which takes privileges (containerd's #13389).
        self.capabilities = () if self._user_xattrs else (REBASE,)
        options = ["userxattr"] if self._user_xattrs else []
        _try(root, options)
        try:
            _try(root, [*options, "volatile"])
            self._can_be_volatile = True
        except OSError:
            self._can_be_volatile = False  # before Linux 5.10
        # After the trial, which loads the module. An index would pin the upper directory to its first lower one.
        self._index = os.path.exists("/sys/module/overlay/parameters/index")

    @property
    def directories(self) -> Directories:
        return self._directories

    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the directory of a new snapshot on these parents, nearest first."""
        made = self.directories.make()
        upper = os.path.join(made, "fs")
        os.mkdir(upper)
        os.chmod(upper, 0o755)  # noqa: S103 — it is the root of a file system
        if active:
            work = os.path.join(made, "work")
            os.mkdir(work)
            os.chmod(work, 0o711)  # noqa: S103 — as containerd has it; the directory above is closed
        if parents:
            copy_root(self._fs(parents[0]), upper)
        return made

    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Return the mounts that show a snapshot, options in containerd 1.6's order.

        A volatile one's mount syncs nothing (Documentation/filesystems/overlayfs.rst, "Volatile mount").
        """
        if not parents:
            return [Mount("bind", self._fs(id), ["rw" if active else "ro", "rbind"])]
        if not active and len(parents) == 1:
            return [Mount("bind", self._fs(parents[0]), ["ro", "rbind"])]
        options = []
        if self._index:
            options.append("index=off")
        if self._user_xattrs:
            options.append("userxattr")
        if active:
            options += [f"workdir={self.directories.path(id, 'work')}", f"upperdir={self._fs(id)}"]
            if volatile and self._can_be_volatile:
                options.append("volatile")
        options.append("lowerdir=" + ":".join(map(self._fs, parents)))
        return [Mount("overlay", "overlay", options)]

    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure what a snapshot has beyond its parents."""
        return await in_thread(lambda: tree.usage(self._fs(id)))

    async def commit(self, id: int, parents: Sequence[int], *, rebased: bool) -> Usage:
        """Give a layer that was applied apart what it needs of those below, and measure it."""
        lowers = list(map(self._fs, parents))
        await settle_pending(self.directories.path(id), self._fs(id), lowers, self._settle)
        if rebased:
            copy_root(lowers[0], self._fs(id))
        return await self.usage(id, parents)

    def _fs(self, id: int) -> str:
        return self.directories.path(id, "fs")


def copy_root(lower: str, upper: str) -> None:
    """Give an upper directory the owner and mode of the one below: it is the root that the container sees."""
    seen = os.stat(lower)
    os.chown(upper, seen.st_uid, seen.st_gid)
    os.chmod(upper, stat.S_IMODE(seen.st_mode))


async def settle_pending(directory: str, upper: str, lowers: Sequence[str], settle: Settle) -> None:
    """Have done what the record in a snapshot's directory asks for, if there is one."""
    record = os.path.join(directory, PENDING)
    if os.path.exists(record):
        await settle(upper, lowers, record)


def _in_initial_user_namespace() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _try(root: str, options: Sequence[str]) -> None:
    with ExitStack() as stack:
        trial = tempfile.mkdtemp(prefix="trial-", dir=root)
        stack.callback(tree.remove, trial)
        for name in ("lower1", "lower2", "upper", "work", "merged"):
            os.mkdir(os.path.join(trial, name))
        data = [
            *options,
            f"lowerdir={trial}/lower2:{trial}/lower1",
            f"upperdir={trial}/upper",
            f"workdir={trial}/work",
        ]
        mount.mount("overlay", f"{trial}/merged", "overlay", 0, ",".join(data))
        stack.callback(mount.umount, f"{trial}/merged", mount.MNT_DETACH)

"""The erofs back end: a committed snapshot is one file, an image of a read-only file system.

An active one is an upper directory over the images of its parents, as with overlayfs. The daemon mounts an image, by a
loop device, below its own root when mounts of a snapshot above it are asked for, so that these are overlays like any.
They stay mounted, also while the daemon is stopped, as long as there is such a snapshot; a container that has mounted
its overlay needs them no more.

Images are the kernel's business by loop devices, though it could mount the files themselves since Linux 6.12: that
would count as one more level of stacked file systems, and a container could have no overlays of its own any more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from errno import ENODEV, EPERM

from wherry.errors import ResourceExhausted, Unknown
from wherry.linux import mount, tree
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.ingest import in_thread
from wherry.store.snapshots.backend import PENDING, REBASE, Backend, Settle, UnsupportedError
from wherry.store.snapshots.directories import Directories
from wherry.store.snapshots.overlay import Overlay
from wherry.store.snapshots.overlayfs import copy_root, is_pending, make_upper

_MKFS = "mkfs.erofs"
_IMAGE = "layer.erofs"
#: An empty directory with owner and mode of the image's root, for who wants to know those without a mount.
_ROOT = "root"

#: Equal trees give equal images: no random number, and the time of making is a constant. Files keep their own times if
#: that is later than any, as this one: unsigned, two seconds before 1970. (mkfs.erofs 1.5's -T changes them all.)
_FLAGS = ("--quiet", "--preserve-mtime", "-U", "00000000-0000-0000-0000-000000000000")
_ENVIRONMENT = {"SOURCE_DATE_EPOCH": str(2**64 - 2)}

#: Flags for trees with holes, which are written out otherwise. Five times slower, by the hashes of all chunks.
_SPARSE_FLAGS = ("--chunksize=4096",)
#: Bytes of holes that are worth it.
_SPARSE = 16 << 20

_NAME_MAX = 255


class Erofs(Backend):
    """Directories `fs` and `work` for each active snapshot, and a file `layer.erofs` for each committed one."""

    capabilities = (REBASE,)

    def __init__(self, root: str, settle: Settle) -> None:
        """UnsupportedError, with the reason, where this system cannot make or mount images. Raises OSError."""
        self._mkfs = shutil.which(_MKFS) or ""
        if not self._mkfs:
            raise UnsupportedError(f"{_MKFS} is not installed (Debian's package erofs-utils)")
        self._directories = Directories(root)
        self._mount_points = os.path.join(root, "mounts")
        os.makedirs(self._mount_points, mode=0o700, exist_ok=True)
        _check_kernel(self._mount_points)
        self._overlay = Overlay(root)
        self._settle = settle
        #: Held while images are mounted, and while it is found out which are not needed, and these are unmounted.
        self._mounting = asyncio.Lock()
        #: Images that this process needs for itself at the moment.
        self._held: Counter[int] = Counter()

    @property
    def directories(self) -> Directories:
        return self._directories

    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the directory of a new snapshot on these parents, nearest first; None where a view shows its parents."""
        if parents and not active:
            return None
        made = self.directories.make()
        make_upper(made, active=active)
        if parents:
            copy_root(self.directories.path(parents[0], _ROOT), os.path.join(made, "fs"))
        return made

    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Mount the parents' images that are not mounted, and return the mount that puts them over each other."""
        upper = self.directories.path(id, "fs")
        if not parents:
            return [Mount("bind", upper, ["rw" if active else "ro", "rbind"])]
        async with self._mounting:
            lowers = await in_thread(lambda: [self._mount_image(parent) for parent in parents])
        if active:
            return [self._overlay.mount(lowers, upper, self.directories.path(id, "work"), volatile=volatile)]
        if len(lowers) == 1:
            return [Mount("bind", lowers[0], ["ro", "rbind"])]
        return [self._overlay.mount(lowers)]

    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure what a snapshot has beyond its parents."""
        return await in_thread(lambda: tree.usage(self.directories.path(id, "fs")))

    async def commit(self, id: int, parents: Sequence[int], *, rebased: bool) -> Usage:
        """Make the image, and measure it: one file, as containerd 2.1 does."""
        directory = self.directories.path(id)
        upper = os.path.join(directory, "fs")
        if is_pending(directory):
            async with self._hold(parents) as lowers:
                await self._settle(upper, lowers, os.path.join(directory, PENDING))
        if rebased:
            copy_root(self.directories.path(parents[0], _ROOT), upper)
        made = self.directories.reserve()
        try:
            await self._make_image(upper, made)
            await in_thread(lambda: _place_image(made, upper, directory))
        except BaseException:
            await self.directories.remove_new(made)
            raise
        self.directories.forget(made)
        blocks = os.stat(os.path.join(directory, _IMAGE)).st_blocks
        return Usage(blocks * 512, 1)

    async def committed(self, id: int) -> None:
        """Remove the directories that have become the image."""
        await in_thread(lambda: self._remove_upper(id))

    async def recover(self, committed: Sequence[int]) -> None:
        """Remove the directories that have become images before."""

        def remove() -> None:
            for id in committed:
                self._remove_upper(id)

        await in_thread(remove)

    async def release(self, in_use: Callable[[], set[int]]) -> None:
        """Unmount the images that no snapshot above needs any more, and free their loop devices."""
        async with self._mounting:
            # After a snapshot's record has been written its mounts are made, under this lock: it is in use by then.
            needed = in_use() | set(self._held)
            await in_thread(lambda: self._unmount_images(needed))

    @asynccontextmanager
    async def _hold(self, ids: Sequence[int]) -> AsyncIterator[list[str]]:
        """Have images mounted, and give the directories where they are."""
        self._held.update(ids)
        try:
            async with self._mounting:
                mounted = await in_thread(lambda: [self._mount_image(id) for id in ids])
            yield mounted
        finally:
            self._held.subtract(ids)
            self._held = +self._held

    async def _make_image(self, upper: str, image: str) -> None:
        tree = await in_thread(lambda: _Tree(upper))
        flags = _SPARSE_FLAGS if tree.holes >= _SPARSE else ()
        process = await asyncio.create_subprocess_exec(
            *(self._mkfs, *_FLAGS, *flags, image, upper),
            env={**os.environ, **_ENVIRONMENT},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            said = output.decode(errors="replace").strip()[-1000:]
            if tree.long_name:
                said += f" (mkfs.erofs 1.5 takes no names of 255 bytes, as that of {tree.long_name})"
            kind = ResourceExhausted if "No space left" in said else Unknown
            raise kind(f"{_MKFS} of {upper} ended with {process.returncode}: {said}")

    def _remove_upper(self, id: int) -> None:
        parts = [self.directories.retire_part(id, name) for name in ("fs", "work")]
        self.directories.remove([part for part in parts if part is not None])

    def _mount_image(self, id: int) -> str:
        target = os.path.join(self._mount_points, str(id))
        os.makedirs(target, mode=0o700, exist_ok=True)
        if not self._is_mounted(target):
            mount.mount_one(Mount("erofs", self.directories.path(id, _IMAGE), ["ro", "loop"]), target)
        return target

    def _unmount_images(self, needed: set[int]) -> None:
        for name in os.listdir(self._mount_points):
            if name.isdecimal() and int(name) in needed:
                continue
            target = os.path.join(self._mount_points, name)
            # Detached, since whoever looks around in it must not keep it; overlays have references of their own.
            mount.unmount_all(target, mount.MNT_DETACH)
            os.rmdir(target)

    def _is_mounted(self, target: str) -> bool:
        return os.stat(target).st_dev != os.stat(self._mount_points).st_dev


def _check_kernel(directory: str) -> None:
    """UnsupportedError if the kernel has no erofs or no loop devices. A module is loaded if need be."""
    try:
        mount.mount(directory, directory, "erofs", mount.MS_RDONLY)  # not a block device, but the type comes first
    except OSError as error:
        if error.errno == ENODEV:
            raise UnsupportedError("the kernel has no erofs (modprobe erofs)") from None
        if error.errno == EPERM:
            raise UnsupportedError("mounting erofs takes the privileges of the initial user namespace") from None
    if not os.path.exists("/dev/loop-control"):
        raise UnsupportedError("the kernel has no loop devices (modprobe loop)")


class _Tree:
    """What is to be known of a tree before an image is made of it. Raises OSError."""

    def __init__(self, path: str) -> None:
        #: Bytes that its files have by their sizes, and not on the disk.
        self.holes = 0
        #: A file whose name is as long as names can be.
        self.long_name = ""
        pending = [path]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                    elif stat.S_ISREG(status.st_mode):
                        self.holes += max(0, status.st_size - status.st_blocks * 512)
                    if len(os.fsencode(entry.name)) == _NAME_MAX:
                        self.long_name = entry.path


def _place_image(made: str, upper: str, directory: str) -> None:
    root = os.path.join(directory, _ROOT)
    os.makedirs(root, exist_ok=True)
    copy_root(upper, root)
    _sync(made)
    os.rename(made, os.path.join(directory, _IMAGE))
    for path in (directory, os.path.dirname(directory)):
        _sync(path)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The btrfs back end, on a btrfs of the tests, and Debian's containerd on the same one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.store.stores import Client, Stores, local_client, opened
from tests.store.test_snapshots import Snapshots, directories, life, shown
from wherry.api.services.snapshots.v1 import snapshots_pb2 as api
from wherry.linux import btrfs, mountinfo
from wherry.linux.mount import TemporaryMount
from wherry.store.snapshots import Snapshotter

BTRFS = "btrfs"


@pytest.fixture
def ours_on_btrfs(btrfs_stores: Stores) -> Client:
    return local_client(btrfs_stores)


def subvolumes(disk: Path, below: Path | str) -> list[str]:
    """The names of the subvolumes below a directory, by btrfs-progs."""
    listed = subprocess.run(["btrfs", "subvolume", "list", disk], check=True, capture_output=True, text=True).stdout
    top = f"{os.path.relpath(below, disk)}/"
    paths = [line.split(" path ", 1)[1] for line in listed.splitlines()]
    return sorted(path.removeprefix(top) for path in paths if path.startswith(top))


async def test_the_life_of_snapshots_as_containerd(ours_on_btrfs: Client, theirs_on_btrfs: Client) -> None:
    results = [await life(Snapshots(client, BTRFS).call) for client in (ours_on_btrfs, theirs_on_btrfs)]
    for number, (mine, other) in enumerate(zip(*results, strict=True)):
        assert mine == other, number


async def fill(client: Client) -> list[tuple[int, int]]:
    """Make layers that change each other, and return the usage of each before and after its commit."""
    found = []
    parent = ""
    for number in range(3):
        request: Any = api.PrepareSnapshotRequest(snapshotter=BTRFS, key="k", parent=parent)
        mounts = (await client.snapshots.prepare(request, metadata=client.metadata())).mounts
        with TemporaryMount(mounts) as at:
            top = Path(at)
            (top / f"file{number}").write_bytes(b"x" * 40_960 * (number + 1))
            (top / "file").write_bytes(b"x" * 8_192 * (number + 1))
            (top / f"file{number - 1}").unlink(missing_ok=True)
            (top / "directory").mkdir(exist_ok=True)
            (top / f"directory/{number}").mkdir()
            (top / "moded").touch(mode=0o600 + number)
            os.chmod(top / "moded", 0o600 + number)
            if number == 1:
                os.link(top / "file1", top / "directory/link")
                os.chown(top / "directory", 1, 1)
            os.sync()
        usage = api.UsageRequest(snapshotter=BTRFS, key="k")
        answer = await client.snapshots.usage(usage, metadata=client.metadata())
        found.append((answer.size, answer.inodes))
        parent = f"layer{number}"
        commit = api.CommitSnapshotRequest(snapshotter=BTRFS, key="k", name=parent)
        await client.snapshots.commit(commit, metadata=client.metadata())
        usage = api.UsageRequest(snapshotter=BTRFS, key=parent)
        answer = await client.snapshots.usage(usage, metadata=client.metadata())
        found.append((answer.size, answer.inodes))
    return found


async def test_usage_as_containerd(ours_on_btrfs: Client, theirs_on_btrfs: Client) -> None:
    assert await fill(ours_on_btrfs) == await fill(theirs_on_btrfs)


async def test_what_is_mounted(btrfs_stores: Stores) -> None:
    snapshotter = btrfs_stores.snapshotters[BTRFS]
    await fill_layers(snapshotter)
    at = btrfs_stores.directory / "at"
    for number, names in ((0, {"file0"}), (1, {"file1"}), (2, {"file2"})):
        view = await snapshotter.view("n", f"view{number}", f"layer{number}")
        assert "ro" in view[0].options
        assert set(shown(view, at)) == names
    # What was committed cannot be changed, not even by a mount of the time before.
    (mount,) = await snapshotter.prepare("n", "k", "layer2")
    with TemporaryMount([mount]) as top:
        Path(top, "more").touch()
        await snapshotter.commit("n", "layer3", "k")
        await snapshotter.prepare("n", "k", "layer3")
        with pytest.raises(OSError, match="Read-only"):
            Path(top, "too late").touch()


async def fill_layers(snapshotter: Snapshotter) -> None:
    parent = ""
    for number in range(3):
        with TemporaryMount(await snapshotter.prepare("n", "k", parent)) as at:
            Path(at, f"file{number}").touch()
            Path(at, f"file{number - 1}").unlink(missing_ok=True)
        parent = f"layer{number}"
        await snapshotter.commit("n", parent, "k")


async def test_subvolumes_go_with_what_is_in_them(btrfs_stores: Stores, btrfs_disk: Path) -> None:
    snapshotter = btrfs_stores.snapshotters[BTRFS]
    (mount,) = await snapshotter.prepare("n", "k")
    with TemporaryMount([mount]) as at:
        fd = os.open(at, os.O_RDONLY)
        try:
            # As a container engine in a privileged container makes them.
            btrfs.create("nested", fd)
            Path(at, "nested/deep").mkdir()
            deep = os.open(f"{at}/nested/deep", os.O_RDONLY)
            try:
                btrfs.snapshot(fd, "read-only", deep, read_only=True)
            finally:
                os.close(deep)
        finally:
            os.close(fd)
    root = Path(snapshotter.root) / "snapshots"
    assert len(subvolumes(btrfs_disk, root)) == 3
    await snapshotter.remove("n", "k")
    await snapshotter.close()
    assert subvolumes(btrfs_disk, root) == directories(snapshotter) == []


async def test_what_a_crash_leaves_is_removed(btrfs_stores: Stores, btrfs_disk: Path) -> None:
    snapshotter = btrfs_stores.snapshotters[BTRFS]
    await snapshotter.prepare("n", "kept")
    root = Path(snapshotter.root) / "snapshots"
    kept = subvolumes(btrfs_disk, root)
    assert kept == directories(snapshotter)
    (root / "new-123/fs").mkdir(parents=True)
    for name in ("new-456", "removed-789", "99"):
        subprocess.run(["btrfs", "-q", "subvolume", "create", root / name], check=True)
    async with opened(btrfs_stores.directory) as again:
        await again.snapshotters[BTRFS].collect()
    assert subvolumes(btrfs_disk, root) == directories(snapshotter) == kept


async def test_not_on_btrfs(stores: Stores) -> None:
    directory = f"{stores.directory}/io.containerd.snapshotter.v1.btrfs"
    kind, _source = mountinfo.lookup(str(stores.directory))
    assert stores.snapshotters.failures[BTRFS] == (
        f"path {directory} ({kind}) must be a btrfs filesystem to be used with the btrfs snapshotter: skip plugin"
    )

"""The erofs back end: images made, mounted while they are needed, and gone with their loop devices."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.harness import leaks
from tests.images.trees import read_tree
from tests.store.stores import Client, Stores, opened
from tests.store.test_rebase import layer
from tests.store.test_snapshots import Snapshots, directories, life, shown
from wherry.errors import FailedPrecondition, NotFound, ResourceExhausted, Unknown
from wherry.linux.mount import TemporaryMount
from wherry.store.database import Database
from wherry.store.snapshots import Snapshotter, snapshotters
from wherry.store.snapshots.backend import PENDING, UnsupportedError
from wherry.store.snapshots.erofs import Erofs

EROFS = "erofs"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


def mounted(snapshotter: Snapshotter) -> list[str]:
    """The ids of the snapshots whose images are mounted."""
    found = [line.split()[4] for line in leaks.mounts() if f" {snapshotter.root}/mounts/" in line]
    assert sorted(found) == sorted(map(str, Path(snapshotter.root, "mounts").iterdir()))
    return sorted(Path(path).name for path in found)


def loop_devices(directory: Path | str) -> list[str]:
    """The files below a directory that are loop devices."""
    said = subprocess.run(["losetup", "--noheadings", "--output", "BACK-FILE"], capture_output=True, text=True)
    return sorted(line.strip() for line in said.stdout.splitlines() if f"{directory}/" in line)


async def fill(snapshotter: Snapshotter, count: int = 3) -> str:
    """Commit layers on each other; returns the name of the topmost."""
    parent = ""
    for number in range(count):
        with TemporaryMount(await snapshotter.prepare("n", "k", parent)) as at:
            Path(at, f"file{number}").write_text(str(number))
            Path(at, f"file{number - 1}").unlink(missing_ok=True)
        parent = f"layer{number}"
        await snapshotter.commit("n", parent, "k")
    return parent


async def test_the_life_of_snapshots_as_containerds_overlayfs(ours: Client, theirs: Client) -> None:
    """Kinds of errors, records and events are those of any back end; mounts and usage are its own."""
    mine = await life(Snapshots(ours, EROFS).call)
    other = await life(Snapshots(theirs, "overlayfs").call)
    for number, (here, there) in enumerate(zip(mine, other, strict=True)):
        if isinstance(here, list) and isinstance(there, list):
            continue
        if isinstance(here, tuple) and len(here) == 2:
            continue
        assert here == there, number


async def test_a_committed_snapshot_is_one_image(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    await fill(snapshotter)
    for id in "123":
        found = sorted(path.name for path in Path(snapshotter.root, "snapshots", id).iterdir())
        assert found == ["layer.erofs", "root"]
        image = Path(snapshotter.root, "snapshots", id, "layer.erofs")
        usage = await snapshotter.usage("n", f"layer{int(id) - 1}")
        assert (usage.size, usage.inodes) == (image.stat().st_blocks * 512, 1)
    assert sorted(directories(snapshotter)) == ["1", "2", "3"]


async def test_equal_trees_are_equal_images(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    for key in "ab":
        (mount,) = await snapshotter.prepare("n", key)
        Path(mount.source, "file").write_text("x")
        for path in (f"{mount.source}/file", mount.source):
            os.utime(path, ns=(0, -1_000_000_500_000_000))
        await snapshotter.commit("n", f"{key}{key}", key)
        await asyncio.sleep(1.1)  # an image could have the second in which it was made
    images = [Path(snapshotter.root, "snapshots", id, "layer.erofs").read_bytes() for id in "12"]
    assert images[0] == images[1]
    (view,) = await snapshotter.view("n", "view", "aa")
    with TemporaryMount([view]) as at:
        assert os.stat(f"{at}/file").st_mtime_ns == -1_000_000_500_000_000


async def test_images_are_mounted_while_something_above_can_be(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    top = await fill(snapshotter)
    assert mounted(snapshotter) == loop_devices(stores.directory) == []
    await snapshotter.view("n", "view", "layer0")
    assert mounted(snapshotter) == ["1"]
    (mount,) = await snapshotter.prepare("n", "active", top)
    assert mounted(snapshotter) == ["1", "2", "3"]
    assert len(loop_devices(stores.directory)) == 3
    with TemporaryMount([mount]) as at:
        await snapshotter.remove("n", "active")
        assert mounted(snapshotter) == ["1"]
        # What is mounted already needs them no more, and keeps their devices itself.
        assert Path(at, "file2").read_text() == "2"
        assert len(loop_devices(stores.directory)) == 3
    await snapshotter.remove("n", "view")
    assert mounted(snapshotter) == leaks.remaining(lambda: loop_devices(stores.directory)) == []


async def test_the_mounts_come_back(stores: Stores, tmp_path: Path) -> None:
    """After a restart of the system, or when somebody has unmounted them."""
    snapshotter = stores.snapshotters[EROFS]
    await snapshotter.prepare("n", "active", await fill(snapshotter))
    leaks.unmount(tmp_path)
    assert set(shown(await snapshotter.mounts("n", "active"), tmp_path / "at")) == {"file2"}
    assert mounted(snapshotter) == ["1", "2", "3"]


async def test_a_restart_keeps_what_is_needed_and_unmounts_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path) as stores:
        snapshotter = stores.snapshotters[EROFS]
        top = await fill(snapshotter)
        await snapshotter.view("n", "kept", "layer0")
        await snapshotter.prepare("n", "gone", top)
        stores.database.read("SELECT 1")
        # The daemon dies when it has written that one is gone.
        await stores.database.write(lambda connection: connection.execute("DELETE FROM snapshots WHERE key = 'gone'"))
        for id in "12":
            Path(snapshotter.root, "snapshots", id, "fs/left").mkdir(parents=True)
        Path(snapshotter.root, "snapshots/new-image").write_bytes(bytes(5000))
    async with opened(tmp_path) as stores:
        snapshotter = stores.snapshotters[EROFS]
        assert mounted(snapshotter) == ["1", "2", "3"]
        await snapshotter.collect()
        assert mounted(snapshotter) == ["1"]
        assert not list(Path(snapshotter.root, "snapshots").glob("*/fs"))
        assert directories(snapshotter) == ["1", "2", "3"]
        await snapshotter.remove("n", "kept")
        assert mounted(snapshotter) == []
        assert leaks.remaining(lambda: loop_devices(tmp_path)) == []


async def test_mounted_and_unmounted_by_many_at_once(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    top = await fill(snapshotter)

    async def use(key: str) -> None:
        for _ in range(5):
            mounts = await snapshotter.prepare("n", key, top)
            assert set(await asyncio.to_thread(shown, mounts, stores.directory / key)) == {"file2"}
            await snapshotter.remove("n", key)

    await asyncio.gather(*(use(f"k{number}") for number in range(4)))
    assert mounted(snapshotter) == leaks.remaining(lambda: loop_devices(stores.directory)) == []


async def test_a_layer_with_holes_stays_small(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    (mount,) = await snapshotter.prepare("n", "k")
    with open(f"{mount.source}/sparse", "wb") as file:
        file.seek(100 << 20)
        file.write(b"end")
    os.link(f"{mount.source}/sparse", f"{mount.source}/link")
    Path(mount.source, "file").write_bytes(os.urandom(10_000))
    before = {name: os.stat(f"{mount.source}/{name}").st_size for name in ("sparse", "file")}
    content = Path(mount.source, "file").read_bytes()
    await snapshotter.commit("n", "one", "k")
    assert (await snapshotter.usage("n", "one")).size < 1 << 20
    with TemporaryMount(await snapshotter.view("n", "view", "one")) as at:
        assert {name: os.stat(f"{at}/{name}").st_size for name in before} == before
        assert os.stat(f"{at}/sparse").st_ino == os.stat(f"{at}/link").st_ino
        assert Path(at, "file").read_bytes() == content
        with open(f"{at}/sparse", "rb") as file:
            file.seek(100 << 20)
            assert file.read() == b"end"


async def test_what_is_pending_is_settled_over_the_images(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    async def settle(upper: str, lowers: Sequence[str], record: str) -> None:
        seen.append(sorted(os.listdir(lower)[0] for lower in lowers))
        Path(upper, "settled").touch()
        os.unlink(record)

    database = Database(tmp_path / "meta.db")
    try:
        snapshotter = Snapshotter(database, EROFS, Erofs(str(tmp_path / EROFS), settle))
        await layer(snapshotter, "one")
        await layer(snapshotter, "two", "one")
        (mount,) = await snapshotter.prepare("n", "active")
        Path(mount.source).parent.joinpath(PENDING).write_text("{}")
        await snapshotter.commit("n", "three", "active", parent="two")
        assert seen == [["file of one", "file of two"]]
        assert mounted(snapshotter) == []
        names = set(shown(await snapshotter.view("n", "view", "three"), tmp_path / "at"))
        assert names == {"file of one", "file of two", "settled"}
    finally:
        database.close()
        leaks.unmount(tmp_path)


async def test_an_image_that_cannot_be_made(stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot stays as it was, and can be committed later."""
    program = tmp_path / "bin/mkfs.erofs"
    program.parent.mkdir()
    snapshotter = stores.snapshotters[EROFS]
    backend = snapshotter._backend
    assert isinstance(backend, Erofs)
    real = backend._mkfs
    (mount,) = await snapshotter.prepare("n", "k")
    Path(mount.source, "file").touch()
    for text, kind in (("<E> erofs: no luck", Unknown), ("write error: No space left on device", ResourceExhausted)):
        program.write_text(f'#!/bin/sh\necho partial >$5\necho "{text}" >&2\nexit 1\n')
        program.chmod(0o755)
        monkeypatch.setattr(backend, "_mkfs", str(program))
        with pytest.raises(kind, match=text):
            await snapshotter.commit("n", "one", "k")
        with pytest.raises(NotFound):
            snapshotter.stat("n", "one")
        assert directories(snapshotter) == ["1"]
    monkeypatch.setattr(backend, "_mkfs", real)
    await snapshotter.commit("n", "one", "k")


async def test_a_name_that_is_too_long_for_mkfs(stores: Stores) -> None:
    snapshotter = stores.snapshotters[EROFS]
    (mount,) = await snapshotter.prepare("n", "k")
    Path(mount.source, "n" * 255).touch()
    try:
        await snapshotter.commit("n", "one", "k")
    except Unknown as error:
        assert "no names of 255 bytes" in error.message  # mkfs.erofs 1.5; later ones may


async def test_a_commit_that_is_given_up_ends_mkfs(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "mkfs.erofs"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 1000\n")
    program.chmod(0o755)
    snapshotter = stores.snapshotters[EROFS]
    monkeypatch.setattr(snapshotter._backend, "_mkfs", str(program))
    await snapshotter.prepare("n", "k")
    commit = asyncio.create_task(snapshotter.commit("n", "one", "k"))
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        await asyncio.sleep(0.01)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()
    assert directories(snapshotter) == ["1"]


async def test_systems_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unused(*_arguments: object) -> None:
        raise AssertionError

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="erofs-utils"):
        Erofs(str(tmp_path / EROFS), unused)
    database = Database(tmp_path / "meta.db")
    try:
        found = snapshotters(database, str(tmp_path), unused, unused)
        assert EROFS not in found
        assert found.failures[EROFS].endswith("(Debian's package erofs-utils): skip plugin")
    finally:
        database.close()


async def test_a_tree_of_everything(stores: Stores) -> None:
    """What an image shows is what the directory was, but for holes."""
    snapshotter = stores.snapshotters[EROFS]
    (mount,) = await snapshotter.prepare("n", "k")
    top = Path(mount.source)
    (top / "d/empty").mkdir(parents=True)
    (top / "d/file").write_bytes(os.urandom(100_000))
    (top / ("long " + "n" * 249)).write_text("name")
    os.link(top / "d/file", top / "link")
    os.symlink("/nowhere", top / "symlink")
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "block", 0o60600, os.makedev(259, 70_000))
    os.mknod(top / "whiteout", 0o20000, os.makedev(0, 0))
    for number in range(300):
        (top / f"d/{number}").write_bytes(bytes([number % 256]) * number)
    os.chown(top / "d/1", 70_000, 4_000_000_000)
    os.chmod(top / "d/file", 0o6711)
    os.setxattr(top / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(top / "d/file", "user.x", b"1" * 1000)
    os.setxattr(top / "d/file", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    acl = bytes.fromhex("0200000001000600ffffffff020004000500000004000400ffffffff10000600ffffffff20000000ffffffff")
    os.setxattr(top / "d/2", "system.posix_acl_access", acl)
    os.utime(top / "d/3", ns=(1, 123_456_789_987_654_321))
    os.utime(top / "d", ns=(1, 981_173_106_123_456_789))
    before = read_tree(top)
    await snapshotter.commit("n", "one", "k")
    with TemporaryMount(await snapshotter.view("n", "view", "one")) as at:
        assert read_tree(at) == before
    with pytest.raises(FailedPrecondition):
        await snapshotter.mounts("n", "one")

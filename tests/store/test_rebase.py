"""An active snapshot that is given its parent when it is committed, as containerd 2.2 has it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.store.stores import Stores
from tests.store.test_snapshots import EROFS, NATIVE, OVERLAYFS, shown
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unknown
from wherry.store.database import Database
from wherry.store.snapshots import Snapshotter
from wherry.store.snapshots.backend import PENDING
from wherry.store.snapshots.overlayfs import Overlayfs

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


async def layer(snapshotter: Snapshotter, name: str, parent: str = "") -> str:
    """Commit a snapshot that was prepared without a parent; returns what was its directory while it was active."""
    (mount,) = await snapshotter.prepare("n", f"active {name}")
    assert mount.type == "bind"
    Path(mount.source, f"file of {name}").write_text(name)
    await snapshotter.commit("n", name, f"active {name}", parent=parent)
    return mount.source


@pytest.mark.parametrize("name", [OVERLAYFS, EROFS])
async def test_layers_made_apart_are_put_on_each_other(name: str, stores: Stores) -> None:
    snapshotter = stores.snapshotters[name]
    await asyncio.gather(*(snapshotter.prepare("n", key) for key in "abc"))
    parent = ""
    for key in "abc":
        (mount,) = await snapshotter.mounts("n", key)
        Path(mount.source, key).write_text(key)
        await snapshotter.commit("n", key.upper(), key, parent=parent)
        assert snapshotter.stat("n", key.upper()).parent == parent
        parent = key.upper()
    assert set(shown(await snapshotter.view("n", "view", "C"), stores.directory / "at")) == set("abc")
    with pytest.raises(FailedPrecondition, match="child"):
        await snapshotter.remove("n", "A")


@pytest.mark.parametrize("name", [OVERLAYFS, EROFS])
async def test_the_root_directory_is_that_of_the_parent(name: str, stores: Stores) -> None:
    snapshotter = stores.snapshotters[name]
    (mount,) = await snapshotter.prepare("n", "base")
    os.chown(mount.source, 5, 6)
    os.chmod(mount.source, 0o1750)
    await snapshotter.commit("n", "one", "base")
    await layer(snapshotter, "two", "one")
    (mount,) = await snapshotter.prepare("n", "three", "two")
    (upper,) = (option.removeprefix("upperdir=") for option in mount.options if option.startswith("upperdir="))
    seen = os.stat(upper)
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (5, 6, 0o1750)


@pytest.mark.parametrize("name", [OVERLAYFS, EROFS])
async def test_refusals(name: str, stores: Stores) -> None:
    snapshotter = stores.snapshotters[name]
    await layer(snapshotter, "one")
    await layer(snapshotter, "other")
    await snapshotter.prepare("n", "bare")
    await snapshotter.prepare("n", "on one", "one")
    for key, name, parent, kind in (
        ("bare", "two", "absent", NotFound),
        ("bare", "two", "on one", FailedPrecondition),
        ("bare", "two", "bare", FailedPrecondition),
        ("bare", "one", "other", AlreadyExists),
        ("absent", "two", "one", NotFound),
        ("on one", "two", "other", InvalidArgument),
    ):
        with pytest.raises(kind):
            await snapshotter.commit("n", name, key, parent=parent)
    with pytest.raises(NotFound):
        await snapshotter.commit("elsewhere", "two", "bare", parent="one")
    await snapshotter.commit("n", "two", "on one", parent="one")
    assert snapshotter.stat("n", "two").parent == "one"


async def test_a_back_end_that_cannot_says_so(stores: Stores) -> None:
    snapshotter = stores.snapshotters[NATIVE]
    assert "rebase" not in snapshotter.capabilities
    await layer(snapshotter, "one")
    await snapshotter.prepare("n", "bare")
    with pytest.raises(InvalidArgument, match="native cannot rebase"):
        await snapshotter.commit("n", "two", "bare", parent="one")
    await snapshotter.commit("n", "two", "bare")


class Settled:
    """A stand-in for the worker: writes down what it is asked, and fails when it shall."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], object]] = []
        self.fails = False

    async def __call__(self, upper: str, lowers: Sequence[str], record: str) -> None:
        self.calls.append((upper, list(lowers), json.loads(Path(record).read_text())))
        if self.fails:
            raise Unknown("no such file in the layers below")
        os.unlink(record)


async def test_what_a_layer_left_pending_is_settled_first(tmp_path: Path) -> None:
    settled = Settled()
    database = Database(tmp_path / "meta.db")
    try:
        snapshotter = Snapshotter(database, OVERLAYFS, Overlayfs(str(tmp_path / OVERLAYFS), settled))
        lowers = [await layer(snapshotter, "one")]
        lowers.insert(0, await layer(snapshotter, "two", "one"))
        assert settled.calls == []
        (mount,) = await snapshotter.prepare("n", "active")
        record = Path(mount.source).parent / PENDING
        record.write_text('{"some": "thing"}')
        settled.fails = True
        with pytest.raises(Unknown, match="no such file"):
            await snapshotter.commit("n", "three", "active", parent="two")
        with pytest.raises(NotFound):
            snapshotter.stat("n", "three")
        settled.fails = False
        # Two at a time: one does it, and the other comes too late.
        outcomes = await asyncio.gather(
            *(snapshotter.commit("n", "three", "active", parent="two") for _ in range(2)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), AlreadyExists]
        assert settled.calls == 2 * [(mount.source, lowers, {"some": "thing"})]
        assert not record.exists()
    finally:
        database.close()

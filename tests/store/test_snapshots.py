"""Snapshots and their service, and the same calls to Debian's containerd; the mounts are mounted."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images.trees import archive, entry, read_tree
from tests.store.stores import Client, Stores, local_client, opened
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.snapshots.v1 import snapshots_pb2 as api
from wherry.api.wellknown_pb2 import FieldMask
from wherry.errors import AlreadyExists, NotFound
from wherry.linux.mount import Mount, read_only
from wherry.linux.tree import usage
from wherry.store.snapshots.snapshotter import VOLATILE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

OVERLAYFS, NATIVE, EROFS = "overlayfs", "native", "erofs"


class Snapshots:
    """Calls of the Snapshots service, with outcomes that can be compared between daemons."""

    def __init__(self, client: Client, snapshotter: str) -> None:
        self._client = client
        self._snapshotter = snapshotter
        #: Directories of snapshots, numbered as they are first seen: the numbers that a daemon uses are its own.
        self._directories: dict[str, str] = {}

    async def call(self, method: str, lease: str = "", **fields: Any) -> Any:
        request = REQUESTS[method](snapshotter=self._snapshotter, **fields)
        answer = await self._client.outcome(self._client.snapshots, method, request, lease=lease)
        if isinstance(answer, str):
            # containerd's native measures a view's directory, which need not exist, before it looks whether it is one.
            return "FailedPrecondition" if (method, answer) == ("commit", "Unknown") else answer
        if method in ("prepare", "view", "mounts"):
            return [(m.type, self._known(m.source), [self._known(o) for o in m.options]) for m in answer.mounts]
        if method in ("stat", "update"):
            return self.info(answer.info)
        if method == "usage":
            return (answer.size > 0, answer.inodes)
        return "done"

    async def list(self, *filters: str) -> Any:
        request = api.ListSnapshotsRequest(snapshotter=self._snapshotter, filters=filters)
        pages = await self._client.stream(self._client.snapshots, "list", request)
        return [page if isinstance(page, str) else [self.info(info) for info in page.info] for page in pages]

    def info(self, info: Any) -> Any:
        assert info.created_at.seconds > 0 and info.updated_at.seconds > 0
        later = (info.updated_at.seconds, info.updated_at.nanos) > (info.created_at.seconds, info.created_at.nanos)
        return (info.name, info.parent, int(info.kind), dict(info.labels), later)

    def _known(self, text: str) -> str:
        """Put stand-ins for the daemon's own directories."""
        parts = text.split("/snapshots/")
        for number, part in enumerate(parts[1:], 1):
            own, _, _ = part.partition("/") if "/" in part else part.partition(":")
            stand_in = self._directories.setdefault(own, f"<{len(self._directories)}>")
            parts[number] = stand_in + part[len(own) :]
        # A view of btrfs is a subvolume of its own with containerd, and its parent's with us.
        return re.sub(r"subvolid=\d+", "subvolid=<#>", "/snapshots/".join(parts).replace(self._client.root, "<root>"))


REQUESTS: dict[str, Any] = {
    "prepare": api.PrepareSnapshotRequest,
    "view": api.ViewSnapshotRequest,
    "mounts": api.MountsRequest,
    "commit": api.CommitSnapshotRequest,
    "remove": api.RemoveSnapshotRequest,
    "stat": api.StatSnapshotRequest,
    "usage": api.UsageRequest,
}


async def life(call: Any) -> list[Any]:
    """What is said to all that can be done with snapshots."""
    return [
        await call("prepare", key="base", labels={"a": "b", "empty": ""}),
        await call("mounts", key="base"),
        await call("stat", key="base"),
        await call("usage", key="base"),
        await call("prepare", key="base"),
        await call("prepare", key="child", parent="base"),
        await call("prepare", key="child", parent="absent"),
        await call("commit", key="base", name="one", labels={"c": "d", "empty": ""}),
        await call("stat", key="base"),
        await call("stat", key="one"),
        await call("usage", key="one"),
        await call("mounts", key="one"),
        await call("commit", key="one", name="again"),
        await call("prepare", key="one"),
        await call("prepare", key="over one", parent="one"),
        await call("view", key="view of one", parent="one"),
        await call("view", key="view of nothing"),
        await call("commit", key="view of one", name="x"),
        await call("usage", key="view of one"),
        await call("commit", key="absent", name="x"),
        await call("commit", key="over one", name="one"),
        await call("commit", key="over one", name="two"),
        await call("view", key="view of two", parent="two"),
        await call("prepare", key="over two", parent="two"),
        await call("mounts", key="over two"),
        await call("prepare", key="extract-1 sha256:00/../..", parent="two"),
        await call("remove", key="one"),
        await call("remove", key="two"),
        await call("remove", key="absent"),
        await call("remove", key="over two"),
        await call("remove", key="over two"),
        *[await call(method, key="absent") for method in ("stat", "mounts", "usage")],
        await call("prepare", key="k", labels={"x": "y" * 5000}),
        await call("prepare", key="leased", lease="absent"),
        await call("stat", key="leased"),
    ]


@pytest.mark.parametrize("snapshotter", [OVERLAYFS, NATIVE])
async def test_the_life_of_snapshots_as_containerd(snapshotter: str, ours: Client, theirs: Client) -> None:
    results = [await life(Snapshots(client, snapshotter).call) for client in (ours, theirs)]
    for number, (mine, other) in enumerate(zip(*results, strict=True)):
        assert mine == other, number


async def test_unknown_snapshotters_as_containerd(ours: Client, theirs: Client) -> None:
    for client in (ours, theirs):
        for name in ("", "absent"):
            snapshots = Snapshots(client, name)
            for method in REQUESTS:
                assert await snapshots.call(method, key="k") == "InvalidArgument"
            assert await snapshots.list() == ["InvalidArgument"]


async def test_targets_as_containerd(ours: Client, theirs: Client) -> None:
    """A label names what the snapshot shall become: if that is there, nothing is made."""
    results = []
    for client in (ours, theirs):
        call = Snapshots(client, OVERLAYFS).call
        label = {"containerd.io/snapshot.ref": "target"}
        results.append(
            [
                await call("prepare", key="extract-1", labels=label),
                await call("commit", key="extract-1", name="target", labels=label),
                await call("prepare", key="extract-2", labels=label),
                await call("stat", key="target"),
                await call("stat", key="extract-2"),
                await call("view", key="view", labels=label),
            ]
        )
    assert results[0] == results[1]


async def test_update_and_list_as_containerd(ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        snapshots = Snapshots(client, NATIVE)
        for number in range(105):
            await snapshots.call("prepare", key=f"k{number:03}", labels={"n": str(number)})
        await snapshots.call("commit", key="k000", name="parent", labels={"n": "p"})
        await snapshots.call("view", key="child", parent="parent")
        seen: list[Any] = [
            await snapshots.list(*filters)
            for filters in (
                [],
                [""],
                ["kind==committed"],
                ["kind==view", "labels.n==7"],
                ["parent==parent"],
                ["name~=k00"],
            )
        ]
        for labels, paths in (
            ({"a": "1"}, ["labels.a"]),
            ({"containerd.io/gc.root": "now"}, ["labels.containerd.io/gc.root"]),
            ({"a": ""}, ["labels.a"]),
            ({"only": "this"}, ["labels"]),
            ({"all": "new"}, []),
            ({}, ["parent"]),
            ({"k": "v" * 5000}, []),
        ):
            mask = FieldMask(paths=paths) if paths else None
            request = api.UpdateSnapshotRequest(
                snapshotter=NATIVE, info=api.Info(name="k007", labels=labels), update_mask=mask
            )
            changed = await client.outcome(client.snapshots, "update", request)
            seen.append(changed if isinstance(changed, str) else snapshots.info(changed.info))
        request = api.UpdateSnapshotRequest(snapshotter=NATIVE, info=api.Info(name="absent"))
        seen.append(await client.outcome(client.snapshots, "update", request))
        results.append(seen)
    assert results[0] == results[1]


async def test_leases_as_containerd(ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        await client.leases.create(leases_pb2.CreateRequest(id="l"), metadata=client.metadata())
        call = Snapshots(client, OVERLAYFS).call

        async def held(client: Client = client) -> list[tuple[str, str]]:
            request = leases_pb2.ListResourcesRequest(id="l")
            found = await client.leases.list_resources(request, metadata=client.metadata())
            return sorted((each.type, each.id) for each in found.resources)

        seen: list[Any] = []
        for method, fields in (
            ("prepare", {"key": "k"}),
            ("commit", {"key": "k", "name": "n"}),
            ("view", {"key": "v", "parent": "n"}),
            ("remove", {"key": "v"}),
        ):
            seen += [await call(method, lease="l", **fields), await held()]
        results.append(seen)
    assert results[0] == results[1]


steps = st.one_of(
    st.tuples(st.sampled_from(["prepare", "view"]), st.sampled_from("abcd"), st.sampled_from(["", "a", "b", "c", "d"])),
    st.tuples(st.just("commit"), st.sampled_from("abcd"), st.sampled_from("abcd")),
    st.tuples(st.sampled_from(["remove", "mounts", "stat"]), st.sampled_from("abcd"), st.just("")),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequence=st.lists(steps, max_size=14), snapshotter=st.sampled_from([OVERLAYFS, OVERLAYFS, NATIVE]))
async def test_any_sequence_as_containerd(
    sequence: list[tuple[str, str, str]], snapshotter: str, ours: Client, theirs: Client
) -> None:
    results = []
    for client in (ours, theirs):
        client.namespace = client.new_namespace()
        snapshots = Snapshots(client, snapshotter)
        seen: list[Any] = []
        for method, key, other in sequence:
            fields = {"commit": {"name": other}, "prepare": {"parent": other}, "view": {"parent": other}}
            seen.append(await snapshots.call(method, key=key, **fields.get(method, {})))
        seen.append(await snapshots.list())
        results.append(seen)
    assert results[0] == results[1]


def shown(mounts: list[Mount], at: Path) -> Any:
    """What mounts show, mounted as a client would."""
    at.mkdir(exist_ok=True)
    for mount in mounts:
        options = ",".join(option for option in mount.options if option != "rbind")
        kind = ["--rbind"] if mount.type == "bind" else ["-t", mount.type]
        subprocess.run(["mount", *kind, *(["-o", options] if options else []), mount.source, at], check=True)
    try:
        return read_tree(at)
    finally:
        subprocess.run(["umount", at], check=True)


class Filled:
    """Three layers committed one on the other, and what they must show."""

    def __init__(self, stores: Stores, name: str) -> None:
        self.stores = stores
        self.snapshotter = stores.snapshotters[name]

    async def fill(self) -> None:
        parent = ""
        for number in range(3):
            mounts = await self.snapshotter.prepare("n", "active", parent)
            at = self.stores.directory / "at"
            at.mkdir(exist_ok=True)
            options = ",".join(option for option in mounts[0].options if option != "rbind")
            kind = ["--rbind"] if mounts[0].type == "bind" else ["-t", "overlay"]
            subprocess.run(["mount", *kind, "-o", options, mounts[0].source, at], check=True)
            try:
                (at / f"file{number}").write_bytes(bytes(10_000 * (number + 1)))
                (at / "changed").write_text(str(number))
                (at / f"file{number - 1}").unlink(missing_ok=True)
                os.chown(at, number, number)
                os.chmod(at, 0o750 + number)
            finally:
                subprocess.run(["umount", at], check=True)
            await self.snapshotter.commit("n", f"layer{number}", "active")
            parent = f"layer{number}"


@pytest.mark.parametrize("name", [OVERLAYFS, NATIVE, EROFS])
async def test_what_is_mounted(name: str, stores: Stores) -> None:
    filled = Filled(stores, name)
    await filled.fill()
    at = stores.directory / "at"
    for number, files in ((0, {"file0", "changed"}), (1, {"file1", "changed"}), (2, {"file2", "changed"})):
        view = shown(await filled.snapshotter.view("n", f"view{number}", f"layer{number}"), at)
        assert set(view) == files
    mounts = await filled.snapshotter.prepare("n", "active", "layer2")
    assert set(shown(mounts, at)) == {"file2", "changed"}
    # The root of what is mounted is the new snapshot's own directory: it must look as its parent's did.
    root = Path(mounts[0].source if name == NATIVE else mounts[0].options[-2].removeprefix("upperdir="))
    assert (root.stat().st_uid, root.stat().st_gid, root.stat().st_mode & 0o7777) == (2, 2, 0o752)


@pytest.mark.parametrize("name", [OVERLAYFS, NATIVE])
async def test_a_volatile_snapshot(name: str, stores: Stores) -> None:
    """Its mount syncs nothing when it goes; the parent's do, and so does what it is committed as."""
    filled = Filled(stores, name)
    await filled.fill()
    snapshotter, at = filled.snapshotter, stores.directory / "at"
    (mount,) = await snapshotter.prepare("n", "volatile", "layer2", {VOLATILE: "true"})
    assert ("volatile" in mount.options) == (name == OVERLAYFS)
    assert await snapshotter.mounts("n", "volatile") == [mount]
    assert set(shown([mount], at)) == {"file2", "changed"}
    assert set(shown(read_only([mount]), at)) == {"file2", "changed"}
    await snapshotter.commit("n", "layer3", "volatile")
    assert "volatile" not in (await snapshotter.prepare("n", "next", "layer3"))[0].options
    assert set(shown(await snapshotter.mounts("n", "next"), at)) == {"file2", "changed"}
    await snapshotter.prepare("n", "gone", "layer2", {VOLATILE: "true"})
    await snapshotter.remove("n", "gone")
    with pytest.raises(NotFound):
        await snapshotter.mounts("n", "gone")


async def test_usage_is_what_du_says(stores: Stores) -> None:
    await Filled(stores, OVERLAYFS).fill()
    snapshotter = stores.snapshotters[OVERLAYFS]
    for number in range(3):
        fs = Path(snapshotter.root) / "snapshots" / str(number + 1) / "fs"
        said = subprocess.run(["du", "-s", "--block-size=1", fs], check=True, capture_output=True, text=True)
        found = await snapshotter.usage("n", f"layer{number}")
        assert found.size == int(said.stdout.split()[0])
        assert found.inodes == len(read_tree(fs)) + 1


def test_hard_links_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100_000))
    before = usage(str(tmp_path))
    for name in "bcd":
        os.link(tmp_path / "a", tmp_path / name)
    after = usage(str(tmp_path))
    assert (before.size, before.inodes) == (after.size, after.inodes)


async def test_native_copies_everything(stores: Stores) -> None:
    snapshotter = stores.snapshotters[NATIVE]
    (mount,) = await snapshotter.prepare("n", "a")
    layer = stores.directory / "layer.tar"
    layer.write_bytes(
        archive(
            [
                entry("d", tarfile.DIRTYPE, mode=0o2750, gid=5),
                entry("d/file", data=b"x" * 100_000, mode=0o4711, uid=1, gid=2),
                entry("d/link", tarfile.LNKTYPE, linkname="d/file", mode=0o4711, uid=1, gid=2),
                entry("symlink", tarfile.SYMTYPE, linkname="/nowhere", uid=3),
                entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
                entry("fifo", tarfile.FIFOTYPE),
            ]
        )
    )
    subprocess.run(["tar", "-C", mount.source, "-xpf", layer, "--numeric-owner"], check=True)
    os.setxattr(f"{mount.source}/d/file", "user.x", b"1")
    os.setxattr(f"{mount.source}/symlink", "trusted.y", b"2", follow_symlinks=False)
    with open(f"{mount.source}/sparse", "wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
        file.truncate(80 << 20)
    await snapshotter.commit("n", "one", "a")
    (copy,) = await snapshotter.prepare("n", "b", "one")
    assert read_tree(copy.source) == read_tree(mount.source)
    assert os.stat(f"{copy.source}/sparse").st_blocks == os.stat(f"{mount.source}/sparse").st_blocks
    sizes = [await snapshotter.usage("n", key) for key in ("one", "b")]
    assert sizes[0].inodes == sizes[1].inodes


def directories(snapshotter: Any) -> list[str]:
    return sorted(os.listdir(Path(snapshotter.root) / "snapshots"))


@pytest.mark.parametrize("name", [OVERLAYFS, NATIVE, EROFS])
async def test_what_a_crash_leaves_is_removed(name: str, tmp_path: Path) -> None:
    async with opened(tmp_path) as stores:
        snapshotter = stores.snapshotters[name]
        await snapshotter.prepare("n", "kept")
        kept = directories(snapshotter)
        for left in ("new-123", "removed-456", "99"):
            (Path(snapshotter.root) / "snapshots" / left / "fs").mkdir(parents=True)
    async with opened(tmp_path) as stores:
        snapshotter = stores.snapshotters[name]
        await snapshotter.collect()
        assert directories(snapshotter) == kept
        client = local_client(stores)
        answer = await client.outcome(client.snapshots, "cleanup", api.CleanupRequest(snapshotter=name))
        assert not isinstance(answer, str)
        await snapshotter.remove("n", "kept")
        await snapshotter.close()
        assert directories(snapshotter) == []


async def test_a_number_whose_transaction_failed_is_used_again(stores: Stores) -> None:
    """SQLite takes the number back with the transaction; the directory that was given it must not be in the way."""
    snapshotter = stores.snapshotters[OVERLAYFS]
    (Path(snapshotter.root) / "snapshots/1/fs/left").mkdir(parents=True)
    (mount,) = await snapshotter.prepare("n", "k")
    assert mount.source.endswith("/snapshots/1/fs")
    assert os.listdir(mount.source) == []


async def test_cleanup_spares_what_is_being_made(stores: Stores) -> None:
    snapshotter = stores.snapshotters[OVERLAYFS]

    async def make(number: int) -> None:
        (mount,) = await snapshotter.prepare("n", str(number))
        assert os.path.isdir(mount.source)
        if number % 2:
            await snapshotter.remove("n", str(number))

    async def clean() -> None:
        for _ in range(20):
            await snapshotter.collect()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(clean())
        for number in range(60):
            tasks.create_task(make(number))
    await snapshotter.close()
    await snapshotter.collect()
    assert len(directories(snapshotter)) == 30
    assert all(os.path.isdir(Path(snapshotter.root) / "snapshots" / each / "fs") for each in directories(snapshotter))


async def test_one_of_many_gets_the_key(stores: Stores) -> None:
    snapshotter = stores.snapshotters[OVERLAYFS]
    outcomes = await asyncio.gather(*(snapshotter.prepare("n", "k") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 9
    await snapshotter.collect()
    assert len(directories(snapshotter)) == 1


async def test_garbage_is_collected_with_its_files_and_announced(stores: Stores) -> None:
    client = local_client(stores)
    seen: list[Any] = []

    async def subscribe(events: AsyncIterator[Any]) -> None:
        async for envelope in events:
            seen.append((envelope.topic, envelope.event.type_url))

    listening = asyncio.create_task(subscribe(stores.exchange.subscribe([])))
    await asyncio.sleep(0)
    call = Snapshots(client, OVERLAYFS).call
    await call("prepare", key="a")
    await call("commit", key="a", name="one")
    await call("prepare", key="rooted", parent="one", labels={"containerd.io/gc.root": "now"})
    await call("prepare", key="loose", parent="one")
    await call("view", key="v", parent="one")
    await stores.collector.collect()
    found = await Snapshots(client, OVERLAYFS).list()
    assert [info[0] for info in found[0]] == ["one", "rooted"]
    assert len(directories(stores.snapshotters[OVERLAYFS])) == 2
    await call("remove", key="rooted")
    await asyncio.sleep(0)
    listening.cancel()
    kind = "containerd.events.Snapshot"
    assert seen == [
        ("/snapshot/prepare", kind + "Prepare"),
        ("/snapshot/commit", kind + "Commit"),
        ("/snapshot/prepare", kind + "Prepare"),
        ("/snapshot/prepare", kind + "Prepare"),
        ("/snapshot/remove", kind + "Remove"),
        ("/snapshot/remove", kind + "Remove"),
        ("/snapshot/remove", kind + "Remove"),
    ]

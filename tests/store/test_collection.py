"""Garbage collection: what is referred to stays, the rest goes, in one step."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.errors import InvalidArgument, NotFound, Unimplemented
from wherry.store import collection, leases
from wherry.store.containers import Container, ContainerStore
from wherry.store.database import Database
from wherry.store.images import Image, ImageStore, Target
from wherry.store.leases import LeaseStore
from wherry.store.marking import Garbage, Marker
from wherry.store.sandboxes import Sandbox, SandboxStore

DIGESTS = [f"sha256:{number:064x}" for number in range(8)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "meta.db")
    yield opened
    opened.close()


async def blob(database: Database, digest: str, labels: str = "{}", namespace: str = "n") -> None:
    def insert(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (namespace,))
        connection.execute("INSERT INTO content VALUES (?, ?, 1, ?, 0, 0)", (namespace, digest, labels))

    await database.write(insert)


async def snapshot(database: Database, key: str, parent: str | None = None, labels: str = "{}") -> None:
    def insert(connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT id FROM snapshots WHERE key = ?", (parent,)).fetchone()
        connection.execute(
            "INSERT INTO snapshots (namespace, snapshotter, key, parent, kind, labels, created_at, updated_at)"
            " VALUES ('n', 'overlayfs', ?, ?, 3, ?, 0, 0)",
            (key, row["id"] if row else None, labels),
        )

    await database.write(insert)


def blobs(database: Database) -> set[str]:
    return {row["digest"] for row in database.read("SELECT digest FROM content WHERE namespace = 'n'")}


def snapshots(database: Database) -> set[str]:
    return {row["key"] for row in database.read("SELECT key FROM snapshots")}


async def test_an_image_keeps_what_its_labels_lead_to(database: Database) -> None:
    manifest, config, layer, stray = DIGESTS[:4]
    await blob(
        database,
        manifest,
        f'{{"containerd.io/gc.ref.content.config": "{config}", "containerd.io/gc.ref.content.l.0": "{layer}"}}',
    )
    await blob(database, config, '{"containerd.io/gc.ref.snapshot.overlayfs": "top"}')
    await blob(database, layer)
    await blob(database, stray)
    await snapshot(database, "bottom")
    await snapshot(database, "top", "bottom")
    await snapshot(database, "stray", "bottom")
    await ImageStore(database).create("n", Image("image", Target("application/x", manifest, 1)))
    collected = await collection.collect(database)
    assert blobs(database) == {manifest, config, layer}
    assert snapshots(database) == {"bottom", "top"}
    assert collected.blobs == [stray]
    assert [key for _namespace, _snapshotter, key, _id in collected.snapshots] == ["stray"]
    await ImageStore(database).delete("n", "image")
    await collection.collect(database)
    assert blobs(database) == set() == snapshots(database)


async def test_a_lease_keeps_and_a_flat_one_only_what_it_lists(database: Database) -> None:
    store = LeaseStore(database)
    first, second, third, fourth = DIGESTS[:4]
    await blob(database, first, f'{{"containerd.io/gc.ref.content": "{second}"}}')
    await blob(database, second)
    await blob(database, third, f'{{"containerd.io/gc.ref.content": "{fourth}"}}')
    await blob(database, fourth)
    await store.create("n", "deep", {})
    await store.create("n", "flat", {collection.FLAT: "1"})
    await store.add_resource("n", "deep", leases.CONTENT, first)
    await store.add_resource("n", "flat", leases.CONTENT, third)
    await collection.collect(database)
    assert blobs(database) == {first, second, third}
    await store.delete("n", "deep")
    await collection.collect(database)
    assert blobs(database) == {third}


async def test_an_expired_lease_is_collected_itself(database: Database) -> None:
    store = LeaseStore(database)
    await blob(database, DIGESTS[0])
    await store.create("n", "old", {collection.EXPIRE: "2001-01-01T00:00:00Z"})
    await store.create("n", "new", {collection.EXPIRE: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(2**31))})
    await store.add_resource("n", "old", leases.CONTENT, DIGESTS[0])
    await collection.collect(database)
    assert [lease.id for lease in store.list("n", [])] == ["new"]
    assert blobs(database) == set()


async def test_a_container_keeps_its_snapshot_and_a_root_label_its_blob(database: Database) -> None:
    await blob(database, DIGESTS[0], '{"containerd.io/gc.root": "now"}')
    await snapshot(database, "parent")
    await snapshot(database, "box", "parent")
    container = Container("box", runtime_name="r", spec=("t", b"{}"), snapshotter="overlayfs", snapshot_key="box")
    await ContainerStore(database).create("n", container)
    await collection.collect(database)
    assert (blobs(database), snapshots(database)) == ({DIGESTS[0]}, {"parent", "box"})


async def test_a_sandbox_keeps_what_its_labels_name(database: Database) -> None:
    await blob(database, DIGESTS[0])
    await blob(database, DIGESTS[1])
    labels = {"containerd.io/gc.ref.content.config": DIGESTS[0]}
    await SandboxStore(database).create("n", Sandbox("pod", labels=labels, runtime_name="r", sandboxer="shim"))
    await collection.collect(database)
    assert blobs(database) == {DIGESTS[0]}


async def test_a_blob_of_two_namespaces_stays_until_neither_has_it(database: Database) -> None:
    await blob(database, DIGESTS[0])
    await blob(database, DIGESTS[0], '{"containerd.io/gc.root": "now"}', "other")
    assert (await collection.collect(database)).blobs == []
    assert blobs(database) == set()


async def test_flat_leases_keep_parents_and_targets_and_ingests_what_they_expect(database: Database) -> None:
    store = LeaseStore(database)
    await store.create("n", "flat", {collection.FLAT: "1"})
    target, below, expected, labelled = DIGESTS[:4]
    await blob(database, target, f'{{"containerd.io/gc.ref.content/x": "{below}"}}')
    await blob(database, below)
    await blob(database, expected, f'{{"containerd.io/gc.ref.content/x": "{labelled}"}}')
    await blob(database, labelled)
    await snapshot(database, "parent", labels=f'{{"containerd.io/gc.ref.content": "{below}"}}')
    await snapshot(database, "child", "parent")
    await snapshot(database, "other", "parent")
    old = {collection.EXPIRE: "2001-01-01T00:00:00Z"}
    await ImageStore(database).create("n", Image("image", Target("application/x", target, 1), old))
    ingest = "INSERT INTO ingests (namespace, ref, total, expected, started_at) VALUES ('n', 'ref', 0, ?, 0)"
    await database.write(lambda connection: connection.execute(ingest, (expected,)) and None)
    for type, id in (("images", "image"), (leases.INGESTS, "ref"), (leases.snapshots("overlayfs"), "child")):
        await store.add_resource("n", "flat", type, id)
    await collection.collect(database)
    assert blobs(database) == {target, expected, labelled}
    assert snapshots(database) == {"parent", "child"}
    assert [image.name for image in ImageStore(database).list("n", [])] == ["image"]


async def test_an_image_that_has_expired_goes_unless_something_keeps_it(database: Database) -> None:
    images = ImageStore(database)
    past = "2001-01-01T00:00:00Z"
    times = {"old": past, "new": "2999-01-01T00:00:00Z", "odd": "2001-01-01", "kept": past}
    for number, (name, at) in enumerate(times.items()):
        await blob(database, DIGESTS[number])
        await images.create("n", Image(name, Target("application/x", DIGESTS[number], 1), {collection.EXPIRE: at}))
    await blob(database, DIGESTS[5], '{"containerd.io/gc.root": "1", "containerd.io/gc.ref.image": "kept"}')
    collected = await collection.collect(database)
    assert collected.images == [("n", "old")]
    assert [image.name for image in images.list("n", [])] == ["kept", "new", "odd"]
    assert blobs(database) == {*DIGESTS[1:4], DIGESTS[5]}


async def test_an_image_that_expires_joins_the_lease(database: Database) -> None:
    images, store = ImageStore(database), LeaseStore(database)
    await store.create("n", "l", {})
    target = Target("application/x", DIGESTS[0], 1)
    await images.create("n", Image("plain", target), "l")
    await images.create("n", Image("old", target, {collection.EXPIRE: "2001-01-01T00:00:00Z"}), "l")
    await images.create("n", Image("gone", target, {collection.EXPIRE: "2001-01-01T00:00:00Z"}), "l")
    with pytest.raises(NotFound, match="lease does not exist"):
        await images.create("n", Image("x", target, {collection.EXPIRE: "2001-01-01T00:00:00Z"}), "none")
    with pytest.raises(NotFound, match=f'image "gone" has target {DIGESTS[0]}, not {DIGESTS[1]}'):
        await images.delete("n", "gone", DIGESTS[1], "l")
    await images.delete("n", "gone", DIGESTS[0], "l")
    await collection.collect(database)
    assert [image.name for image in images.list("n", [])] == ["old", "plain"]
    assert store.resources("n", "l") == [("images", "old")]


async def test_resources_of_leases(database: Database) -> None:
    store = LeaseStore(database)
    with pytest.raises(NotFound):
        await store.add_resource("n", "l", "none", "x")
    await store.create("n", "l", {})
    for type, id, kind in (
        ("none", "x", Unimplemented),
        ("content", "x", InvalidArgument),
        ("content/x", DIGESTS[0], InvalidArgument),
        ("images/x", "x", InvalidArgument),
        ("snapshots", "x", InvalidArgument),
        ("snapshots/a/b", "x", InvalidArgument),
    ):
        with pytest.raises(kind):
            await store.add_resource("n", "l", type, id)


async def test_a_ring_goes_and_so_does_what_is_behind_it(database: Database) -> None:
    for number in range(4):
        await blob(database, DIGESTS[number], f'{{"containerd.io/gc.ref.content": "{DIGESTS[(number + 1) % 3]}"}}')
    await blob(database, DIGESTS[5], f'{{"containerd.io/gc.bref.content": "{DIGESTS[1]}"}}')
    await collection.collect(database)
    assert blobs(database) == set()


async def test_a_long_mark_goes_behind_others(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def nice() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    seen: list[int] = []
    mark = Marker.mark

    def watched(self: Marker, now: int) -> Garbage:
        seen.append(nice())
        garbage = mark(self, now)
        self.took = 0.1
        return garbage

    monkeypatch.setattr(Marker, "mark", watched)
    usual = nice()
    marker = Marker(database.path)
    for _ in range(3):
        await collection.collect(database, marker=marker)
    marker.close()
    assert seen == [usual, *[min(19, usual + 10)] * 2]  # not more each time
    assert nice() == usual

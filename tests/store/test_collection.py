"""Garbage collection: what is referred to stays, the rest goes, in one step."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.store import collection, leases
from wherry.store.containers import Container, ContainerStore
from wherry.store.database import Database
from wherry.store.images import Image, ImageStore, Target
from wherry.store.leases import LeaseStore

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


async def test_a_blob_of_two_namespaces_stays_until_neither_has_it(database: Database) -> None:
    await blob(database, DIGESTS[0])
    await blob(database, DIGESTS[0], '{"containerd.io/gc.root": "now"}', "other")
    assert (await collection.collect(database)).blobs == []
    assert blobs(database) == set()

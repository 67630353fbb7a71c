"""kill -9 in the middle of a sweep: what is referred to is all there afterwards, and nothing else is."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.harness.daemon import Wherryd
from tests.store.worlds import data, digest
from wherry.store import labels
from wherry.store.database import Database
from wherry.store.snapshots import snapshotters

GARBAGE = 3000
KEPT = range(GARBAGE, GARBAGE + 5)


async def _fill(root: Path) -> None:
    """Make garbage, some of it in a chain and in snapshots, and an image with layers, one of them unpacked."""
    blobs = root / "io.containerd.content.v1.content/blobs/sha256"
    blobs.mkdir(parents=True)
    database = Database(root / "meta.db")

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO namespaces (name) VALUES ('n')")
        for number in (*range(GARBAGE), *KEPT):
            (blobs / digest(number)[7:]).write_bytes(data(number))
            next_ones = range(number + 1, min(number + 4, GARBAGE))
            below = {f"containerd.io/gc.ref.content.{n}": digest(n) for n in next_ones}
            if number == KEPT[0]:
                below = {f"containerd.io/gc.ref.content.{n}": digest(n) for n in KEPT[1:]}
                below["containerd.io/gc.ref.snapshot.overlayfs"] = "kept-2"
            row = "n", digest(number), len(data(number)), labels.encode(below), 0, 0
            connection.execute("INSERT INTO content VALUES (?, ?, ?, ?, ?, ?)", row)
        query = "INSERT INTO images VALUES ('n', 'image', '{}', 'application/x', ?, 1, '{}', 0, 0)"
        connection.execute(query, (digest(KEPT[0]),))

    await database.write(fill)

    overlayfs = snapshotters(database, os.fspath(root), _no_copy, _no_settling)["overlayfs"]
    for name in ("kept", "garbage"):
        parent = ""
        for number in range(3):
            key = f"{name}-{number}"
            await overlayfs.prepare("n", key + "-active", parent)
            await overlayfs.commit("n", key, key + "-active")
            parent = key
    await overlayfs.close()
    database.close()


async def _no_copy(*_arguments: object) -> None:
    raise AssertionError("overlayfs copies nothing")


async def _no_settling(*_arguments: object) -> None:
    raise AssertionError("no layer is applied here")


def _count(path: Path) -> int:
    connection = sqlite3.connect(path, timeout=10)
    try:
        count: int = connection.execute("SELECT count(*) FROM content").fetchone()[0]
    finally:
        connection.close()
    return count


@pytest.fixture
async def daemon() -> AsyncIterator[Wherryd]:
    need_root("ctr")
    made = Wherryd(config='[gc]\nstartup_delay = "1ms"\n')
    try:
        await _fill(made.root)
        yield made
    finally:
        made.close()


async def test_kills_in_the_middle(daemon: Wherryd) -> None:
    chance = random.Random(7)
    path = daemon.root / "meta.db"
    counts = [_count(path)]
    for _ in range(4):
        daemon.start()
        deadline = time.monotonic() + 60
        while (now := _count(path)) == counts[-1] and now > len(KEPT):
            assert time.monotonic() < deadline, "nothing is collected"
        time.sleep(chance.random() * 0.01)
        daemon.kill()
        counts.append(_count(path))
    assert any(len(KEPT) < count < GARBAGE for count in counts), counts
    daemon.start()
    assert daemon.ctr("leases", "create", "--id", "l", namespace="n").code == 0
    assert daemon.ctr("leases", "rm", "--sync", "l", namespace="n").code == 0
    listed = daemon.ctr("content", "ls", "-q", namespace="n").text.split()
    assert set(listed) == {digest(number) for number in KEPT}
    content = daemon.root / "io.containerd.content.v1.content"
    assert {f"sha256:{name}" for name in os.listdir(content / "blobs/sha256")} == set(listed)
    assert os.listdir(content / "removed") == []
    lines = daemon.ctr("snapshots", "ls", namespace="n").text.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["kept-0", "kept-1", "kept-2"]
    assert len(os.listdir(daemon.root / "io.containerd.snapshotter.v1.overlayfs/snapshots")) == 3

"""Garbage collection by containerd's rules: what nothing refers to is removed.

Roots are images' targets, containers' snapshots, what a lease holds, ingests that have not expired, and anything
labelled ``containerd.io/gc.root``. From there labels lead on:

* ``containerd.io/gc.ref.content`` (alone, or with ``.x`` or ``/x`` behind it): the value is a digest;
* ``containerd.io/gc.ref.snapshot.<snapshotter>`` (also with ``/x``): the value is a snapshot's key;
* a snapshot keeps its parent.

A lease labelled ``containerd.io/gc.flat`` keeps what it lists and follows no labels. ``containerd.io/gc.expire`` is a
time (RFC 3339) after which a lease or an ingest counts no more.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

from wherry.store import labels
from wherry.store.database import Database

ROOT = "containerd.io/gc.root"
EXPIRE = "containerd.io/gc.expire"
FLAT = "containerd.io/gc.flat"
_CONTENT_REF = "containerd.io/gc.ref.content"
_SNAPSHOT_REF = "containerd.io/gc.ref.snapshot."

#: A thing that can be collected: its kind ("content", or "snapshots/<snapshotter>"), and digest or key.
Node = tuple[str, str]


class Collected:
    """What a collection took away."""

    def __init__(self) -> None:
        #: Digests that no namespace has any more.
        self.blobs: list[str] = []
        self.ingests: list[int] = []
        #: namespace, snapshotter, key and id of each snapshot.
        self.snapshots: list[tuple[str, str, str, int]] = []
        #: namespace and id of each lease that had expired.
        self.leases: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self.blobs or self.ingests or self.snapshots or self.leases)


async def collect(database: Database) -> Collected:
    """Delete the records of what nothing refers to, and return what their files were. One write: nobody sees half."""
    return await database.write(_collect)


def _collect(connection: sqlite3.Connection) -> Collected:
    collected = Collected()
    _expire(connection, collected)
    for (namespace,) in connection.execute("SELECT name FROM namespaces").fetchall():
        _sweep(connection, namespace, _mark(connection, namespace), collected)
    return collected


def _expire(connection: sqlite3.Connection, collected: Collected) -> None:
    now = time.time_ns()
    for row in connection.execute("SELECT namespace, id, labels FROM leases").fetchall():
        if _expired(labels.decode(row["labels"]), now):
            connection.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (row["namespace"], row["id"]))
            collected.leases.append((row["namespace"], row["id"]))
    query = """
        SELECT id FROM ingests WHERE (expires_at < ? OR expires_at IS NULL) AND NOT EXISTS (
            SELECT 1 FROM lease_resources r
            WHERE r.namespace = ingests.namespace AND r.type = 'ingests' AND r.id = ingests.ref)
    """
    for row in connection.execute(query, (now,)).fetchall():
        connection.execute("DELETE FROM ingests WHERE id = ?", (row["id"],))
        collected.ingests.append(row["id"])


def _expired(found: Mapping[str, str], now: int) -> bool:
    text = found.get(EXPIRE)
    if text is None:
        return False
    try:
        return datetime.fromisoformat(text).timestamp() * 1e9 < now
    except ValueError:
        return False  # a time that cannot be read never comes


class _Graph:
    """One namespace's things and what each refers to."""

    def __init__(self, connection: sqlite3.Connection, namespace: str) -> None:
        self.references: dict[Node, list[Node]] = {}
        self.roots: list[Node] = []
        self.parents: dict[Node, Node] = {}
        for row in connection.execute("SELECT digest, labels FROM content WHERE namespace = ?", (namespace,)):
            self._add(("content", row["digest"]), labels.decode(row["labels"]))
        query = """
            SELECT s.snapshotter, s.key, s.labels, p.key AS parent
            FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent WHERE s.namespace = ?
        """
        for row in connection.execute(query, (namespace,)):
            kind = f"snapshots/{row['snapshotter']}"
            self._add((kind, row["key"]), labels.decode(row["labels"]))
            if row["parent"] is not None:
                self.parents[kind, row["key"]] = (kind, row["parent"])

    def _add(self, node: Node, found: Mapping[str, str]) -> None:
        self.references[node] = list(_references(found))
        if ROOT in found:
            self.roots.append(node)

    def reachable(self, roots: list[Node], flat: list[Node]) -> set[Node]:
        """Return what must stay: the roots and all they lead to, and flat ones with their parents alone."""
        kept: set[Node] = set()
        waiting = [*self.roots, *roots]
        while waiting:
            node = waiting.pop()
            if node in kept:
                continue
            kept.add(node)
            waiting += self.references.get(node, ())
            if node in self.parents:
                waiting.append(self.parents[node])
        for node in flat:
            while node not in kept:
                kept.add(node)
                if node not in self.parents:
                    break
                node = self.parents[node]
        return kept


def _references(found: Mapping[str, str]) -> Iterator[Node]:
    for key, value in found.items():
        if key == _CONTENT_REF or key.startswith((_CONTENT_REF + ".", _CONTENT_REF + "/")):
            yield "content", value
        elif key.startswith(_SNAPSHOT_REF):
            snapshotter = key[len(_SNAPSHOT_REF) :].partition("/")[0]
            yield f"snapshots/{snapshotter}", value


def _mark(connection: sqlite3.Connection, namespace: str) -> set[Node]:
    graph = _Graph(connection, namespace)
    roots: list[Node] = []
    flat: list[Node] = []
    for row in connection.execute("SELECT target_digest, labels FROM images WHERE namespace = ?", (namespace,)):
        roots.append(("content", row["target_digest"]))
        roots += _references(labels.decode(row["labels"]))
    for row in connection.execute(
        "SELECT snapshotter, snapshot_key, labels FROM containers WHERE namespace = ?", (namespace,)
    ):
        if row["snapshot_key"]:
            roots.append((f"snapshots/{row['snapshotter']}", row["snapshot_key"]))
        roots += _references(labels.decode(row["labels"]))
    for row in connection.execute("SELECT expected FROM ingests WHERE namespace = ?", (namespace,)):
        if row["expected"]:
            roots.append(("content", row["expected"]))
    query = """
        SELECT r.type, r.id, l.labels FROM lease_resources r
        JOIN leases l ON l.namespace = r.namespace AND l.id = r.lease WHERE r.namespace = ?
    """
    for row in connection.execute(query, (namespace,)):
        held = flat if FLAT in labels.decode(row["labels"]) else roots
        held.append((row["type"], row["id"]))
    return graph.reachable(roots, flat)


def _sweep(connection: sqlite3.Connection, namespace: str, kept: set[Node], collected: Collected) -> None:
    rows = connection.execute("SELECT digest FROM content WHERE namespace = ?", (namespace,)).fetchall()
    for (digest,) in rows:
        if ("content", digest) not in kept:
            connection.execute("DELETE FROM content WHERE namespace = ? AND digest = ?", (namespace, digest))
            if connection.execute("SELECT 1 FROM content WHERE digest = ? LIMIT 1", (digest,)).fetchone() is None:
                collected.blobs.append(digest)
    # A child was made after its parent: the other way round the references stay whole.
    query = "SELECT id, snapshotter, key FROM snapshots WHERE namespace = ? ORDER BY id DESC"
    for row in connection.execute(query, (namespace,)).fetchall():
        if (f"snapshots/{row['snapshotter']}", row["key"]) in kept:
            continue
        connection.execute("DELETE FROM snapshots WHERE id = ?", (row["id"],))
        collected.snapshots.append((namespace, row["snapshotter"], row["key"], row["id"]))

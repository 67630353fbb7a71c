"""Garbage collection: what nothing refers to is removed, while everybody goes on writing.

What refers to what, and what is a root, is in `wherry.store.marking`. containerd stops every writer from the mark to
the end of the sweep. Here nobody waits for the mark, which looks at one view of the database in a thread, and the sweep
is many short writes among the others'. That nothing is lost all the same comes from three rules.

*What was written since is known.* Before the view is fixed, triggers on the writer's connection begin to note each row
that is inserted or updated. They are there during a collection alone.

*What became reachable since is spared.* Take any thing that was garbage in the view and is reachable now, and a way to
it from a root. Some step of that way is new, or the thing would have been marked: a root became one, or a reference was
made. Take the last such step, to a thing v: after it the way has references that were there in the view, so all of
them are known, and lead from v through nothing that was marked. And v is known too: whoever made the step wrote v's
own row, that of what refers to v, or a lease's resource that names v, and triggers note all three. So before a write
of the sweep deletes anything, it spares what was noted, what the noted rows refer to now, and all that these lead to
by the references of the view. Nobody writes between that and the deletion: one thread makes all writes.

*What goes first is what refers.* Between two writes of the sweep somebody may find a blob that is still to go, and
refer to it. Since a thing goes only after everything that refers to it, the blob's own references are all still there,
and are spared with it. Things that refer to each other in a ring go in one write.

A row that was deleted and made again is a new one, and noted. A condition that depends on the time is judged by the
time of the mark. What lost its last reference since the mark is found by the next collection.

Rows go first, and have gone from the disk when files do: a crash in between leaves files that no row names, which the
daemon removes when it starts.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from wherry.store import labels, marking
from wherry.store.database import Database
from wherry.store.ingest import to_the_end
from wherry.store.marking import Garbage, Marker, Node

T = TypeVar("T")

ROOT = marking.ROOT
EXPIRE = marking.EXPIRE
FLAT = marking.FLAT

#: Seconds that a mark takes if it is to go behind others. Of a small store it is over before they notice, and who has
#: deleted something waits for it.
_LONG = 0.05
#: The nice value that such a mark adds to the daemon's: it gets a tenth of the processor that others want (sched(7)).
_NICE = 10
#: Things that one write of the sweep deletes.
_BATCH = 100
#: Noted rows that one write of the sweep looks at.
_NOTED = 200

#: Of each table: a row's kind and key, as marking names them. What a lease holds is noted under its own name.
_WATCHED = {
    "content": ("'content'", "NEW.digest"),
    "images": ("'images'", "NEW.name"),
    "containers": ("'containers'", "NEW.id"),
    "sandboxes": ("'sandboxes'", "NEW.id"),
    "ingests": ("'ingests'", "NEW.ref"),
    "leases": ("'leases'", "NEW.id"),
    "lease_resources": ("NEW.type", "NEW.id"),
    "snapshots": ("'snapshots/' || NEW.snapshotter", "NEW.key"),
}


class Collected:
    """What a collection took away."""

    def __init__(self) -> None:
        #: Digests that no namespace may have any more.
        self.blobs: list[str] = []
        self.ingests: list[int] = []
        #: namespace, snapshotter, key and id of each snapshot.
        self.snapshots: list[tuple[str, str, str, int]] = []
        #: namespace and id of each lease that had expired.
        self.leases: list[tuple[str, str]] = []
        #: namespace and name of each image that had expired.
        self.images: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self.blobs or self.ingests or self.snapshots or self.leases or self.images)

    def add(self, other: Collected) -> None:
        """Take over what another one has."""
        self.blobs += other.blobs
        self.ingests += other.ingests
        self.snapshots += other.snapshots
        self.leases += other.leases
        self.images += other.images


async def collect(database: Database, collected: Collected | None = None, marker: Marker | None = None) -> Collected:
    """Delete the records of what nothing refers to, and return what their files were. One at a time, please.

    Whatever is raised, `collected`, if given, holds what has been deleted. `marker` is the database's; with None, it is
    one for this time alone.
    """
    own = marker or Marker(database.path)
    collected = Collected() if collected is None else collected
    await database.write(_watch, lasts=False, mutates=False)
    try:
        garbage = await _in_own_thread(lambda: own.mark(time.time_ns()), behind_others=own.took > _LONG)
        if garbage:
            sweep = _Sweep(garbage)
            while not sweep.done:
                collected.add(await database.write(sweep.step, mutates=False))
    finally:
        if marker is None:
            own.close()
        await database.write(_unwatch, lasts=False, mutates=False)
    return collected


async def _in_own_thread(function: Callable[[], T], *, behind_others: bool) -> T:
    """Run a function in a thread, which others may go before, and do not return before it has, even if cancelled."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            # On Linux it is of a thread, whatever POSIX says; and it is never taken back, so a pool's thread won't do.
            if behind_others:
                os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + _NICE))
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="garbage-mark", daemon=True).start()
    return await to_the_end(asyncio.wrap_future(result))


def _watch(connection: sqlite3.Connection) -> None:
    _unwatch(connection)
    connection.execute("CREATE TEMP TABLE noted (namespace, kind, key, PRIMARY KEY (namespace, kind, key))")
    for table, (kind, key) in _WATCHED.items():
        for what in ("INSERT", "UPDATE"):
            note = f"INSERT OR IGNORE INTO noted VALUES (NEW.namespace, {kind}, {key})"  # noqa: S608 — named above
            when = f"AFTER {what} ON main.{table}"
            connection.execute(f"CREATE TEMP TRIGGER note_{what}_{table} {when} BEGIN {note}; END")


def _unwatch(connection: sqlite3.Connection) -> None:
    for table in _WATCHED:
        for what in ("INSERT", "UPDATE"):
            connection.execute(f"DROP TRIGGER IF EXISTS temp.note_{what}_{table}")
    connection.execute("DROP TABLE IF EXISTS temp.noted")


class _Sweep:
    """The deletion of garbage, one write after the other."""

    def __init__(self, garbage: Garbage) -> None:
        self._garbage = garbage
        self._batches = list(_batches(garbage))
        self._spared: set[Node] = set()
        self.done = False

    def step(self, connection: sqlite3.Connection) -> Collected:
        """Spare what has become reachable and delete some of the rest, within a write; `done` tells of the end."""
        collected = Collected()
        if not self._spare(connection):
            return collected  # there is more to spare first
        for node in self._batches.pop(0):
            if node not in self._spared:
                _delete(connection, node, self._garbage.ids.get(node), collected)
        self.done = not self._batches
        return collected

    def _spare(self, connection: sqlite3.Connection) -> bool:
        """Spare what noted rows are, refer to and lead to; tell whether that was all of them."""
        rows = connection.execute("SELECT rowid, namespace, kind, key FROM noted LIMIT ?", (_NOTED,)).fetchall()
        waiting: list[Node] = []
        for number, namespace, kind, key in rows:
            connection.execute("DELETE FROM noted WHERE rowid = ?", (number,))
            waiting.append((namespace, kind, key))
            waiting += _references(connection, (namespace, kind, key))
        while waiting:
            node = waiting.pop()
            if node not in self._spared:
                self._spared.add(node)
                waiting += self._garbage.edges.get(node, ())
        return len(rows) < _NOTED


def _batches(garbage: Garbage) -> Iterator[list[Node]]:
    for start in range(0, len(garbage.nodes), _BATCH):
        yield garbage.nodes[start : start + _BATCH]
    if garbage.rings:
        yield garbage.rings


def _references(connection: sqlite3.Connection, node: Node) -> Iterator[Node]:
    """Yield what a thing's row refers to now."""
    namespace, kind, key = node
    table, slash, snapshotter = kind.partition("/")
    where = f"r.namespace = ? AND r.{_KEYS[table]} = ?" if table in _KEYS else ""
    parameters = [namespace, key]
    if slash:
        where += " AND r.snapshotter = ?"
        parameters.append(snapshotter)
    queries = []
    if table in marking.LABELLED:
        queries.append(marking.label_edges(table, where))
    if table in marking.OWN:
        queries.append(marking.own_edges(table, where))
    for query in queries:
        for _namespace, of_kind, of_key, to_kind, to_key in connection.execute(query, parameters):
            # A label that leads back makes an edge from another thing to this one.
            if (of_kind, of_key) == (kind, key):
                yield namespace, to_kind, to_key
    if table in (marking.CONTENT, marking.IMAGES):
        labelled = f"SELECT r.labels FROM {table} r WHERE {where} AND instr(r.labels, ?) > 0"  # noqa: S608 — named below
        for (text,) in connection.execute(labelled, [*parameters, marking.CONDITION]):
            for label, value in labels.decode(text).items():
                if label.startswith(marking.CONDITION):  # whether the condition holds or not: the next mark judges
                    yield namespace, *marking.conditioned(label, value)


#: Of each kind's table the column of the key.
_KEYS = {
    "content": "digest",
    "images": "name",
    "containers": "id",
    "sandboxes": "id",
    "ingests": "ref",
    "snapshots": "key",
}


def _delete(connection: sqlite3.Connection, node: Node, id: int | None, collected: Collected) -> None:
    """Delete a thing's row, if it still is the one that was seen."""
    namespace, kind, key = node

    def gone(query: str, *more: object) -> bool:
        return connection.execute(query, (namespace, key, *more)).rowcount > 0

    if kind == marking.CONTENT:
        other = "SELECT 1 FROM content WHERE digest = ? LIMIT 1"
        if gone("DELETE FROM content WHERE namespace = ? AND digest = ?"):
            collected.blobs += [] if connection.execute(other, (key,)).fetchone() else [key]
    elif kind == marking.IMAGES:
        if gone("DELETE FROM images WHERE namespace = ? AND name = ?"):
            collected.images.append((namespace, key))
    elif kind == marking.LEASES:
        if gone("DELETE FROM leases WHERE namespace = ? AND id = ?"):
            collected.leases.append((namespace, key))
    elif kind == marking.INGESTS:
        # The blob that it expects may be of a namespace which has it no more.
        expects = "SELECT expected FROM ingests WHERE namespace = ? AND ref = ? AND expected != ''"
        expected = [row[0] for row in connection.execute(expects, (namespace, key))]
        if gone("DELETE FROM ingests WHERE namespace = ? AND ref = ? AND id = ?", id):
            assert id is not None
            collected.ingests.append(id)
            collected.blobs += expected
    elif gone("DELETE FROM snapshots WHERE namespace = ? AND key = ? AND id = ?", id):
        assert id is not None
        collected.snapshots.append((namespace, kind.removeprefix(marking.SNAPSHOTS), key, id))

"""A snapshotter: the records of snapshots, the same for every back end, over the directories that a back end keeps."""

from __future__ import annotations

import asyncio
import enum
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store import filters, labels, leases, namespaces
from wherry.store.database import Database
from wherry.store.ingest import to_the_end
from wherry.store.snapshots.backend import REBASE, REBASE_OF_UPPER, Backend

log = logging.getLogger(__name__)

#: A label of Prepare: "make this, unless a snapshot of the label's name is there already".
TARGET = "containerd.io/snapshot.ref"

#: A label of Prepare, wherry's own: what is written there need not last, whoever asked removes it before long. The
#: mount then waits for no disk when it goes; after a crash of the system the snapshot cannot be mounted any more.
VOLATILE = "wherry/volatile"

#: Rows that are looked at without a pause for others.
_PAGE = 100

_SELECT = "SELECT s.*, p.key AS parent_key FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent"

_Query = Callable[[str, tuple[Any, ...]], list[sqlite3.Row]]


class Kind(enum.IntEnum):
    """What a snapshot is, with the numbers of the wire."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Info:
    """One snapshot's record. Times are nanoseconds since the epoch."""

    key: str
    parent: str
    kind: Kind
    labels: Mapping[str, str]
    created_at: int
    updated_at: int


class Snapshotter:
    """The snapshots of one name in one database. Keys are any strings, and each namespace has its own."""

    def __init__(self, database: Database, name: str, backend: Backend) -> None:
        self.name = name
        self._database = database
        self._backend = backend
        self._removals: set[asyncio.Future[None]] = set()
        #: Held while a snapshot's files are made those of a committed one.
        self._commits: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    @property
    def root(self) -> str:
        """The back end's directory."""
        return self._backend.directories.root

    @property
    def capabilities(self) -> Sequence[str]:
        """What the back end can do beyond what all can: "rebase", "wherry/rebase"."""
        return self._backend.capabilities

    async def prepare(
        self, namespace: str, key: str, parent: str = "", new: Mapping[str, str] | None = None, lease: str = ""
    ) -> list[Mount]:
        """Make a snapshot that can be changed, on a committed one or on nothing, and return its mounts.

        AlreadyExists if the key, or the name in the label containerd.io/snapshot.ref, is taken; NotFound without the
        parent or the lease; InvalidArgument if the parent is not committed.
        """
        return await self._create(Kind.ACTIVE, namespace, key, parent, new or {}, lease)

    async def view(
        self, namespace: str, key: str, parent: str = "", new: Mapping[str, str] | None = None, lease: str = ""
    ) -> list[Mount]:
        """Make a snapshot that shows a committed one, read-only, and return its mounts. Raises as prepare does."""
        return await self._create(Kind.VIEW, namespace, key, parent, new or {}, lease)

    async def _create(
        self, kind: Kind, namespace: str, key: str, parent: str, new: Mapping[str, str], lease: str
    ) -> list[Mount]:
        if not key:
            raise InvalidArgument("snapshot key must not be empty")
        labels.validate(new)
        target = new.get(TARGET, "")
        active = kind == Kind.ACTIVE
        parents = self._check_new(self._database.read, namespace, key, parent, target)
        if parents is None:
            await self._database.write(lambda connection: self._lease(connection, namespace, lease, target))
            raise AlreadyExists(f'target snapshot "{target}"')
        made = await self._backend.make(parents, active=active)

        def insert(connection: sqlite3.Connection) -> int:
            leases.check(connection, namespace, lease)
            now_parents = self._check_new(_query(connection), namespace, key, parent, target)
            if now_parents is None:
                raise AlreadyExists(f'target snapshot "{target}"')
            if now_parents != parents:
                raise FailedPrecondition(f'parent snapshot "{parent}" was replaced meanwhile')
            namespaces.ensure(connection, namespace)
            now = time.time_ns()
            cursor = connection.execute(
                "INSERT INTO snapshots (namespace, snapshotter, key, parent, kind, labels, created_at, updated_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (namespace, self.name, key, parents[0] if parents else None, kind, labels.encode(new), now, now),
            )
            assert cursor.lastrowid is not None
            self._lease(connection, namespace, lease, key)
            if made is not None:
                self._backend.directories.place(made, cursor.lastrowid)
            return cursor.lastrowid

        try:
            number = await to_the_end(self._database.write(insert, lasts=not new.get(VOLATILE)))
        except Exception:
            if made is not None:
                await self._backend.directories.remove_new(made)
            raise
        try:
            return await self._backend.mounts(number, parents, active=active, volatile=bool(new.get(VOLATILE)))
        except BaseException:
            await self.remove(namespace, key, lease)
            raise

    def _check_new(self, query: _Query, namespace: str, key: str, parent: str, target: str) -> list[int] | None:
        """Return the ids of the parents of a snapshot that is to be made; None if its target is there already."""
        if target and self._find(query, namespace, target) is not None:
            return None
        if self._find(query, namespace, key) is not None:
            raise AlreadyExists(f'snapshot "{key}"')
        if not parent:
            return []
        row = self._find(query, namespace, parent)
        if row is None:
            raise NotFound(f"parent snapshot {parent} does not exist")
        if row["kind"] != Kind.COMMITTED:
            raise InvalidArgument(f'failed to create snapshot: parent "{parent}" is not committed snapshot')
        return [row["id"], *self._parents(query, row["id"])]

    async def mounts(self, namespace: str, key: str) -> list[Mount]:
        """Return the mounts that show a snapshot. NotFound; FailedPrecondition for a committed one."""
        row = self._get(namespace, key)
        if row["kind"] == Kind.COMMITTED:
            raise FailedPrecondition(f"failed to get active mount: requested snapshot {key} not active or view")
        parents = self._parents(self._database.read, row["id"])
        volatile = VOLATILE in labels.decode(row["labels"])
        return await self._backend.mounts(row["id"], parents, active=row["kind"] == Kind.ACTIVE, volatile=volatile)

    async def commit(
        self,
        namespace: str,
        name: str,
        key: str,
        new: Mapping[str, str] | None = None,
        lease: str = "",
        parent: str = "",
    ) -> None:
        """Make an active snapshot a committed one of another name, with these labels alone.

        One that was made without a parent can be given one, if the back end can rebase.

        AlreadyExists if the name is taken, NotFound without the active one or the parent, FailedPrecondition for a
        view or a committed one and for a parent that is not committed. InvalidArgument for a parent other than the
        snapshot's own (as containerd's back ends say; its metadata store lets them see no such call, and ignores it),
        and for one where the back end cannot do that (containerd writes it down, and the parent's files are missing).
        """
        if not name:
            raise InvalidArgument("snapshot name must not be empty")
        labels.validate(new or {})
        number = self._check_commit(self._database.read, namespace, name, key, parent)[0]["id"]
        async with self._commits.setdefault(number, asyncio.Lock()):
            await self._commit(namespace, name, key, new or {}, lease, parent)

    async def _commit(
        self, namespace: str, name: str, key: str, new: Mapping[str, str], lease: str, parent: str
    ) -> None:
        row, parents = self._check_commit(self._database.read, namespace, name, key, parent)
        number = row["id"]
        usage = await self._backend.commit(number, parents, rebased=bool(parents) and row["parent"] is None)
        if VOLATILE in labels.decode(row["labels"]):
            await self._backend.directories.sync()

        def change(connection: sqlite3.Connection) -> None:
            leases.check(connection, namespace, lease)
            now_row, now_parents = self._check_commit(_query(connection), namespace, name, key, parent)
            if (now_row["id"], now_parents) != (number, parents):
                raise FailedPrecondition(f'snapshot "{key}" or its parent was replaced meanwhile')
            now = time.time_ns()
            connection.execute(
                "UPDATE snapshots SET key = ?, parent = ?, kind = ?, labels = ?, size = ?, inodes = ?, created_at = ?,"
                " updated_at = ? WHERE id = ?",
                (
                    *(name, parents[0] if parents else None, Kind.COMMITTED, labels.encode(new)),
                    *(usage.size, usage.inodes, now, now, number),
                ),
            )
            self._release(connection, namespace, lease, key)
            self._lease(connection, namespace, lease, name)

        await to_the_end(self._database.write(change))
        try:
            await self._backend.committed(number)
        except OSError as error:
            # What is left is removed when the daemon starts.
            log.warning("what an active snapshot has beyond a committed one: %s", error)
        await self._let_go()

    def _check_commit(
        self, query: _Query, namespace: str, name: str, key: str, parent: str
    ) -> tuple[sqlite3.Row, list[int]]:
        """Return the row of a snapshot that is to be committed, and the ids of the parents that it will have."""
        if self._find(query, namespace, name) is not None:
            raise AlreadyExists(f'snapshot "{name}"')
        row = self._find(query, namespace, key)
        if row is None:
            raise NotFound(f"snapshot {key} does not exist")
        if row["kind"] != Kind.ACTIVE:
            raise FailedPrecondition(f'failed to commit snapshot: snapshot "{key}" is not active')
        if not parent or parent == row["parent_key"]:
            return row, self._parents(query, row["id"])
        if row["parent"] is not None:
            raise InvalidArgument(f'cannot change parent of active snapshot "{key}" on commit')
        new = self._find(query, namespace, parent)
        if new is None:
            raise NotFound(f"parent snapshot {parent} does not exist")
        if new["kind"] != Kind.COMMITTED:
            raise FailedPrecondition(f'failed to commit snapshot: parent "{parent}" is not committed')
        if not {REBASE, REBASE_OF_UPPER} & set(self._backend.capabilities):
            raise InvalidArgument(
                f'snapshot "{key}" cannot be given the parent "{parent}" on commit: snapshotter {self.name} cannot'
                " rebase; prepare it on the parent"
            )
        return row, [new["id"], *self._parents(query, new["id"])]

    async def remove(self, namespace: str, key: str, lease: str = "") -> None:
        """Remove a snapshot. Its files go in the background. NotFound; FailedPrecondition while it has children."""

        def delete(connection: sqlite3.Connection) -> int:
            row = self._find(_query(connection), namespace, key)
            if row is None:
                raise NotFound(f"snapshot {key} does not exist")
            number: int = row["id"]
            if connection.execute("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", (number,)).fetchone():
                raise FailedPrecondition("cannot remove snapshot with child")
            connection.execute("DELETE FROM snapshots WHERE id = ?", (number,))
            self._release(connection, namespace, lease, key)
            return number

        row = self._find(self._database.read, namespace, key)
        volatile = row is not None and VOLATILE in labels.decode(row["labels"])
        number = await to_the_end(self._database.write(delete, lasts=not volatile))
        await self._let_go()
        self._remove_in_background(self._backend.directories.retire([number]))

    async def discard(self, ids: Sequence[int]) -> None:
        """Remove the files of snapshots whose records are gone."""
        await self._let_go()
        await self._remove(self._backend.directories.retire(ids))

    async def collect(self) -> None:
        """Remove every directory that no record stands for: at the start, or when asked to."""
        query = "SELECT id FROM snapshots WHERE snapshotter = ? AND kind = ?"
        await self._backend.recover([row["id"] for row in self._database.read(query, (self.name, Kind.COMMITTED))])
        await self._let_go()
        await self._remove(await self._backend.directories.retire_unknown(self._database, self.name))

    async def close(self) -> None:
        """Wait for what goes in the background."""
        while self._removals:
            await asyncio.wait(self._removals)

    async def _let_go(self) -> None:
        """Have the back end let go of what no snapshot needs for its mounts any more."""
        try:
            await self._backend.release(self._in_use)
        except OSError as error:
            # What is held yet is let go of with the next one.
            log.warning("what snapshots that are gone were mounted from: %s", error)

    async def _remove(self, retired: Sequence[str]) -> None:
        await to_the_end(self._start_removal(retired))

    def _remove_in_background(self, retired: Sequence[str]) -> None:
        def finished(removal: asyncio.Future[None]) -> None:
            self._removals.discard(removal)
            if (error := removal.exception()) is not None:
                # What is left has the name of something removed: the next cleanup takes it.
                log.warning("removal of a snapshot's files: %s", error)

        removal = self._start_removal(retired)
        self._removals.add(removal)
        removal.add_done_callback(finished)

    def _start_removal(self, retired: Sequence[str]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(None, self._backend.directories.remove, retired)

    def stat(self, namespace: str, key: str) -> Info:
        """Return a snapshot's record. NotFound."""
        return _info(self._get(namespace, key))

    async def update(self, namespace: str, key: str, new: Mapping[str, str], paths: Sequence[str] = ()) -> Info:
        """Change a snapshot's labels: those the mask names, or all without one. NotFound, InvalidArgument."""
        labels.check_mask(paths, ("labels", "labels."), f'snapshot "{key}"')

        def change(connection: sqlite3.Connection) -> None:
            row = self._find(_query(connection), namespace, key)
            if row is None:
                raise NotFound(f"snapshot {key} does not exist")
            made = labels.updated(labels.decode(row["labels"]), new, paths or ("labels",))
            labels.validate(made, "info.Labels")
            connection.execute(
                "UPDATE snapshots SET labels = ?, updated_at = ? WHERE id = ?",
                (labels.encode(made), time.time_ns(), row["id"]),
            )

        await self._database.write(change)
        return self.stat(namespace, key)

    def pages(self, namespace: str, filter_texts: Sequence[str] = ()) -> Iterator[list[Info]]:
        """Yield the snapshots that match any of the filters, in the order of keys, a bounded number at a time."""
        matches = filters.parse_all(filter_texts)
        query = f"{_SELECT} WHERE s.namespace = ? AND s.snapshotter = ? AND s.key > ? ORDER BY s.key LIMIT ?"
        last = ""
        while rows := self._database.read(query, (namespace, self.name, last, _PAGE)):
            last = rows[-1]["key"]
            yield [info for info in map(_info, rows) if matches(_adaptor(info))]

    async def usage(self, namespace: str, key: str) -> Usage:
        """Return what a snapshot takes up beyond its parents: measured now if it is active. NotFound."""
        row = self._get(namespace, key)
        if row["kind"] == Kind.ACTIVE:
            return await self._backend.usage(row["id"], self._parents(self._database.read, row["id"]))
        return Usage(row["size"], row["inodes"])

    def _get(self, namespace: str, key: str) -> sqlite3.Row:
        row = self._find(self._database.read, namespace, key)
        if row is None:
            raise NotFound(f"snapshot {key} does not exist")
        return row

    def _find(self, query: _Query, namespace: str, key: str) -> sqlite3.Row | None:
        rows = query(
            f"{_SELECT} WHERE s.namespace = ? AND s.snapshotter = ? AND s.key = ?", (namespace, self.name, key)
        )
        return rows[0] if rows else None

    def _parents(self, query: _Query, id: int) -> list[int]:
        """Return the ids of a snapshot's parents, the nearest first."""
        rows = query(
            "WITH RECURSIVE chain (id, parent, depth) AS ("
            " SELECT id, parent, 0 FROM snapshots WHERE id = ?"
            " UNION ALL SELECT s.id, s.parent, depth + 1 FROM snapshots s JOIN chain ON s.id = chain.parent)"
            " SELECT id FROM chain WHERE depth > 0 ORDER BY depth",
            (id,),
        )
        return [row["id"] for row in rows]

    def _in_use(self) -> set[int]:
        """Return the ids of all parents of snapshots that are not committed."""
        rows = self._database.read(
            "WITH RECURSIVE used (id) AS ("
            " SELECT parent FROM snapshots WHERE snapshotter = ? AND kind != ? AND parent IS NOT NULL"
            " UNION SELECT s.parent FROM snapshots s JOIN used ON s.id = used.id WHERE s.parent IS NOT NULL)"
            " SELECT id FROM used",
            (self.name, Kind.COMMITTED),
        )
        return {row["id"] for row in rows}

    def _lease(self, connection: sqlite3.Connection, namespace: str, lease: str, key: str) -> None:
        leases.add_resource(connection, namespace, lease, leases.snapshots(self.name), key)

    def _release(self, connection: sqlite3.Connection, namespace: str, lease: str, key: str) -> None:
        connection.execute(
            "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
            (namespace, lease, leases.snapshots(self.name), key),
        )


def _query(connection: sqlite3.Connection) -> _Query:
    return lambda query, parameters: connection.execute(query, parameters).fetchall()


def _info(row: sqlite3.Row) -> Info:
    return Info(
        row["key"],
        row["parent_key"] or "",
        Kind(row["kind"]),
        labels.decode(row["labels"]),
        row["created_at"],
        row["updated_at"],
    )


def _adaptor(info: Info) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["kind"]:
            return info.kind.name.lower(), True
        if path == ["name"]:
            return info.key, True
        if path == ["parent"]:
            return info.parent, bool(info.parent)
        if path[0] == "labels":
            return filters.labels_field(info.labels, path)
        return "", False

    return ask

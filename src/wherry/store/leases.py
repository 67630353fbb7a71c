"""Leases: what keeps resources from garbage collection while a client works."""

from __future__ import annotations

import base64
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wherry.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from wherry.oci import digest
from wherry.store import filters, labels, namespaces
from wherry.store.collection import EXPIRE
from wherry.store.database import Database

CONTENT = "content"
IMAGES = "images"
INGESTS = "ingests"
SNAPSHOTS = "snapshots"


@dataclass(frozen=True)
class Lease:
    """One lease; its id is any string. The time is in nanoseconds since the epoch."""

    id: str
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: int = 0


def check(connection: sqlite3.Connection, namespace: str, lease: str) -> None:
    """Raise NotFound, within a write, unless a lease exists; nothing happens for ""."""
    if (
        lease
        and not connection.execute("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, lease)).fetchone()
    ):
        raise NotFound("lease does not exist")


def add_resource(connection: sqlite3.Connection, namespace: str, lease: str, type: str, id: str) -> None:
    """Put a resource into a lease within a write; nothing happens for "". NotFound for a lease that is not there."""
    if lease:
        check(connection, namespace, lease)
        connection.execute("INSERT OR IGNORE INTO lease_resources VALUES (?, ?, ?, ?)", (namespace, lease, type, id))


def remove_resource(connection: sqlite3.Connection, namespace: str, lease: str, type: str, id: str) -> None:
    """Take a resource out of a lease within a write; nothing happens if it is not in it, or for ""."""
    connection.execute(
        "DELETE FROM lease_resources WHERE namespace = ? AND lease = ? AND type = ? AND id = ?",
        (namespace, lease, type, id),
    )


def snapshots(snapshotter: str) -> str:
    """Return the resource type of a snapshotter's snapshots."""
    return f"{SNAPSHOTS}/{snapshotter}"


class LeaseStore:
    """The leases of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, namespace: str, id: str, new: Mapping[str, str]) -> Lease:
        """Make a lease, with a generated id for "". AlreadyExists for an id in use."""
        lease = Lease(id or _generate_id(), {key: value for key, value in new.items() if value}, time.time_ns())

        def insert(connection: sqlite3.Connection) -> None:
            namespaces.ensure(connection, namespace)
            row = namespace, lease.id, labels.encode(lease.labels), lease.created_at
            try:
                connection.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", row)
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'lease "{lease.id}"' if id else "lease") from None

        await self._database.write(insert, lasts=EXPIRE not in lease.labels)
        return lease

    async def delete(self, namespace: str, id: str) -> None:
        """Delete a lease; what it held is free for collection. NotFound if there is none."""

        def remove(connection: sqlite3.Connection) -> None:
            cursor = connection.execute("DELETE FROM leases WHERE namespace = ? AND id = ?", (namespace, id))
            if not cursor.rowcount:
                raise NotFound(f'lease "{id}"')

        rows = self._database.read("SELECT labels FROM leases WHERE namespace = ? AND id = ?", (namespace, id))
        ends_anyway = bool(rows) and EXPIRE in labels.decode(rows[0]["labels"])
        await self._database.write(remove, lasts=not ends_anyway)

    async def add_resource(self, namespace: str, lease: str, type: str, id: str) -> None:
        """Put a resource into a lease. NotFound without the lease, Unimplemented for a type that is not known,
        InvalidArgument for one that has a part too many or too few, and for a blob's id that is no digest."""

        def insert(connection: sqlite3.Connection) -> None:
            _require(connection, namespace, lease)
            _validate_resource(type, id)
            add_resource(connection, namespace, lease, type, id)

        await self._database.write(insert)

    async def delete_resource(self, namespace: str, lease: str, type: str, id: str) -> None:
        """Take a resource out of a lease; nothing happens if it is not in it. Raises as add_resource does."""

        def remove(connection: sqlite3.Connection) -> None:
            _require(connection, namespace, lease)
            _validate_resource(type, id)
            remove_resource(connection, namespace, lease, type, id)

        await self._database.write(remove)

    def resources(self, namespace: str, lease: str) -> list[tuple[str, str]]:
        """Return the resources of a lease as pairs of type and id. NotFound without the lease."""
        if not self._database.read("SELECT 1 FROM leases WHERE namespace = ? AND id = ?", (namespace, lease)):
            raise NotFound(f'lease "{lease}"')
        rows = self._database.read(
            "SELECT type, id FROM lease_resources WHERE namespace = ? AND lease = ? ORDER BY type, id",
            (namespace, lease),
        )
        return [(row["type"], row["id"]) for row in rows]

    def list(self, namespace: str, filter_texts: Sequence[str]) -> list[Lease]:
        """Return the leases that match any of the filters."""
        matches = filters.parse_all(filter_texts)
        rows = self._database.read("SELECT * FROM leases WHERE namespace = ? ORDER BY id", (namespace,))
        found = (Lease(row["id"], labels.decode(row["labels"]), row["created_at"]) for row in rows)
        return [lease for lease in found if matches(_adaptor(lease))]


def _require(connection: sqlite3.Connection, namespace: str, lease: str) -> None:
    query = "SELECT 1 FROM leases WHERE namespace = ? AND id = ?"
    if not connection.execute(query, (namespace, lease)).fetchone():
        raise NotFound(f'lease "{lease}"')


def _validate_resource(type: str, id: str) -> None:
    kind, *parts = type.split("/")
    if kind == SNAPSHOTS:
        if len(parts) != 1 or not parts[0]:
            raise InvalidArgument(f"invalid snapshot resource type {type}")
        return
    if kind not in (CONTENT, INGESTS, IMAGES):
        raise Unimplemented(f"resource type {type} not supported yet")
    if parts:
        raise InvalidArgument(f"invalid resource type {type}")
    if kind == CONTENT:
        try:
            digest.validate(id)
        except InvalidArgument as error:
            reason = error.message.removesuffix(": " + error.kind).split(": ", 1)[-1]
            raise InvalidArgument(f"invalid content resource id {id}: {reason}") from None


def _generate_id() -> str:
    """Return an id as Go's clients make them: the time in nanoseconds and four letters by chance."""
    return f"{time.time_ns() % 1_000_000_000}-{base64.urlsafe_b64encode(os.urandom(3)).decode()}"


def _adaptor(lease: Lease) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["id"]:
            return lease.id, bool(lease.id)
        if path[0] == "labels":
            return filters.labels_field(lease.labels, path)
        return "", False

    return ask

"""Namespaces: rows with labels. They need not be made: the first object in one makes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from wherry import identifiers
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wherry.store import labels
from wherry.store.database import Database


def ensure(connection: sqlite3.Connection, namespace: str) -> None:
    """Make a namespace within a write, if it is not there."""
    connection.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (namespace,))


class NamespaceStore:
    """The namespaces of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def labels(self, name: str) -> dict[str, str]:
        """Return a namespace's labels: none for one that nobody made."""
        rows = self._database.read("SELECT labels FROM namespaces WHERE name = ?", (name,))
        return labels.decode(rows[0]["labels"]) if rows else {}

    def list(self) -> list[tuple[str, dict[str, str]]]:
        """Return every namespace with its labels."""
        rows = self._database.read("SELECT name, labels FROM namespaces ORDER BY name")
        return [(row["name"], labels.decode(row["labels"])) for row in rows]

    async def create(self, name: str, new: Mapping[str, str]) -> None:
        """Make a namespace. AlreadyExists if it is there."""
        identifiers.validate(name)
        labels.validate(new)

        def insert(connection: sqlite3.Connection) -> None:
            try:
                connection.execute("INSERT INTO namespaces VALUES (?, ?)", (name, labels.encode(new)))
            except sqlite3.IntegrityError:
                raise AlreadyExists(f'namespace "{name}"') from None

        await self._database.write(insert)

    async def update(self, name: str, new: Mapping[str, str], paths: Sequence[str]) -> dict[str, str]:
        """Change labels, all of them without a mask, and return what they are then."""
        for path in paths:
            if path != "labels" and not path.startswith("labels."):
                raise InvalidArgument(f'cannot update "{path}" field')
        labels.validate(new)

        def change(connection: sqlite3.Connection) -> dict[str, str]:
            ensure(connection, name)
            (old,) = connection.execute("SELECT labels FROM namespaces WHERE name = ?", (name,)).fetchone()
            made = labels.updated(labels.decode(old), new, paths or ("labels",))
            connection.execute("UPDATE namespaces SET labels = ? WHERE name = ?", (labels.encode(made), name))
            return made

        return await self._database.write(change)

    async def delete(self, name: str) -> None:
        """Delete an empty namespace. NotFound, or FailedPrecondition that lists what is left in it."""

        def remove(connection: sqlite3.Connection) -> None:
            if connection.execute("SELECT 1 FROM namespaces WHERE name = ?", (name,)).fetchone() is None:
                raise NotFound(f'namespace "{name}"')
            left = _left(connection, name)
            if left:
                raise FailedPrecondition(f'namespace "{name}" must be empty, but it still has {", ".join(left)}')
            connection.execute("DELETE FROM namespaces WHERE name = ?", (name,))
            # As containerd, which does not count these among what is left.
            for table in ("leases", "sandboxes"):
                connection.execute(f"DELETE FROM {table} WHERE namespace = ?", (name,))  # noqa: S608

        await self._database.write(remove)


def _left(connection: sqlite3.Connection, namespace: str) -> list[str]:
    """Name the kinds of objects that are in a namespace, in containerd's words and order."""

    def has(table: str) -> bool:
        query = f"SELECT 1 FROM {table} WHERE namespace = ? LIMIT 1"  # noqa: S608 — the tables are named below
        return connection.execute(query, (namespace,)).fetchone() is not None

    left = [
        word for table, word in (("images", "images"), ("content", "blobs"), ("containers", "containers")) if has(table)
    ]
    snapshotters = connection.execute(
        "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY snapshotter", (namespace,)
    )
    left += [f'snapshots on "{row["snapshotter"]}" snapshotter' for row in snapshotters]
    return left

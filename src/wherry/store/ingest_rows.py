"""Ingests' rows: made, found again, and taken away. Functions of a write; the files are `wherry.store.ingest`'s."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from wherry.store import leases, namespaces

#: How long an ingest that no lease holds is kept.
_EXPIRY = 24 * 3600 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Opened:
    """An ingest's row, ready to be written for."""

    id: int
    started_at: int
    new: bool
    #: Whether what is in the file counts.
    resume: bool
    #: The size of the blob of another namespace that stands for this ingest.
    shared_size: int | None


def open_ingest(
    connection: sqlite3.Connection, namespace: str, ref: str, total: int, expected: str, lease: str
) -> Opened | None:
    """Make or find an ingest's row; None if the namespace has the expected blob. Either joins the lease."""
    leases.check(connection, namespace, lease)
    shared_size: int | None = None
    if expected:
        query = "SELECT 1 FROM content WHERE namespace = ? AND digest = ?"
        if connection.execute(query, (namespace, expected)).fetchone() is not None:
            leases.add_resource(connection, namespace, lease, leases.CONTENT, expected)
            return None
        shared = connection.execute("SELECT size FROM content WHERE digest = ? LIMIT 1", (expected,)).fetchone()
        if shared is not None and total in (0, shared["size"]):
            shared_size = shared["size"]
    namespaces.ensure(connection, namespace)
    leases.add_resource(connection, namespace, lease, leases.INGESTS, ref)
    now = time.time_ns()
    expires_at = None if lease else now + _EXPIRY
    row = connection.execute("SELECT * FROM ingests WHERE namespace = ? AND ref = ?", (namespace, ref)).fetchone()
    if row is None:
        cursor = connection.execute(
            "INSERT INTO ingests (namespace, ref, total, expected, started_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            (namespace, ref, total, expected, now, expires_at),
        )
        assert cursor.lastrowid is not None
        return Opened(cursor.lastrowid, now, True, True, shared_size)
    resume = not (total and row["total"] and total != row["total"])
    connection.execute(
        "UPDATE ingests SET total = ?, expected = ?, started_at = ?, expires_at = ? WHERE id = ?",
        (
            row["total"] if resume else total,
            expected or row["expected"],
            row["started_at"] if resume else now,
            expires_at,
            row["id"],
        ),
    )
    return Opened(row["id"], row["started_at"] if resume else now, False, resume, shared_size)


def forget(connection: sqlite3.Connection, namespace: str, ref: str, ingest: int) -> None:
    """Delete an ingest's row, and let go of it whatever lease holds it."""
    connection.execute("DELETE FROM ingests WHERE id = ?", (ingest,))
    connection.execute(
        "DELETE FROM lease_resources WHERE namespace = ? AND type = ? AND id = ?", (namespace, leases.INGESTS, ref)
    )

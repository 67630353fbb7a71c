"""Snapshots that a daemon was extracting layers to when it died: nobody goes on with them."""

from __future__ import annotations

import sqlite3

from wherry.store import leases
from wherry.store.database import Database

#: The label of a snapshot that a transfer of the daemon's own extracts a layer to; it goes at the commit.
UNPACKING = "wherry/unpacking"


async def forget_abandoned(database: Database) -> None:
    """Delete the records of such snapshots: before the first transfer begins. Their files are then nobody's."""
    await database.write(_forget)


def _forget(connection: sqlite3.Connection) -> None:
    path = f'$."{UNPACKING}"'
    query = (
        "SELECT id, namespace, snapshotter, key FROM snapshots WHERE kind = 2 AND json_extract(labels, ?) IS NOT NULL"
    )
    for row in connection.execute(query, (path,)).fetchall():
        connection.execute(
            "DELETE FROM lease_resources WHERE namespace = ? AND type = ? AND id = ?",
            (row["namespace"], leases.snapshots(row["snapshotter"]), row["key"]),
        )
        connection.execute("DELETE FROM snapshots WHERE id = ?", (row["id"],))

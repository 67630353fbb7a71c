"""The metadata database: SQLite in WAL mode, any number of readers, one writer thread with group commit.

A write is a function of a connection. The writer thread runs every write that is waiting in one transaction, each under
a savepoint of its own, and commits (fsync included) once; only then do the callers go on. So a write that has returned
has lasted, and a hundred concurrent ones cost one fsync. One that need not last costs none: the next one that must
brings it to the disk as well, since the log is one file, in the order of the writes.

What is to be deleted from a full disk must be deleted from the metadata first, which takes room itself. So the writer
keeps some: free pages in the database, and a write-ahead log that has been as long as it may get before a checkpoint.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from wherry.errors import FailedPrecondition, ResourceExhausted
from wherry.store.schema import MIGRATIONS

T = TypeVar("T")
_Waiting = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop, bool]

#: Pages of 4096 bytes in the write-ahead log after which a commit checkpoints it.
_CHECKPOINT_PAGES = 256
#: Pages of room that are kept for a full disk: the log's, and those of one more batch of writes.
_RESERVED_PAGES = _CHECKPOINT_PAGES + 64


class Database:
    """One SQLite file. Use from one event loop; `read` runs there and then, `write` in the writer thread."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the database and migrate it to this version's schema.

        Raises FailedPrecondition if the file was written by a newer wherry.
        """
        self.path = str(path)
        #: Called when a write is asked for.
        self.on_write: Callable[[], None] | None = None
        self._reader = self._connect()
        try:
            self._migrate()
        except BaseException:
            self._reader.close()  # and with it the transaction of a migration that failed
            raise
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="database-writer", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA busy_timeout=10000")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    def _migrate(self) -> None:
        (version,) = self._reader.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise FailedPrecondition(
                f"database {self.path} has schema version {version}, this wherry knows {len(MIGRATIONS)}: "
                "start the wherry that wrote it, or a newer one"
            )
        for number, statements in enumerate(MIGRATIONS[version:], start=version + 1):
            self._reader.executescript(f"BEGIN IMMEDIATE;\n{statements}\nPRAGMA user_version={number};\nCOMMIT;")

    def read(self, query: str, parameters: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """Run a query on what has been committed and return its rows. For queries of well under a millisecond."""
        return self._reader.execute(query, parameters).fetchall()

    async def write(
        self, function: Callable[[sqlite3.Connection], T], *, lasts: bool = True, mutates: bool = True
    ) -> T:
        """Run a function in a write transaction and return its result once that is committed and fsynced.

        What the function raises undoes its own changes alone and is raised here. It must not commit or block. One
        that need not last (`lasts=False`) is not waited for the disk for: a crash of the system may undo it, one of
        this process does not. One that is not to be heard of by `on_write` does not count as a mutation.
        """
        if mutates and self.on_write is not None:
            self.on_write()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.put((function, future, loop, lasts))
        # The transaction runs to its end whoever stops waiting for it.
        return await asyncio.shield(future)

    def close(self) -> None:
        """Finish the writes that are waiting, checkpoint, and close."""
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()

    def _write_forever(self) -> None:
        connection = self._connect()
        _reserve(connection)
        stopping = False
        while not stopping:
            batch = [self._waiting.get()]
            while not self._waiting.empty():
                batch.append(self._waiting.get())
            stopping = None in batch
            self._commit_batch(connection, [waiting for waiting in batch if waiting is not None])
            if self._waiting.empty() and _free_pages(connection) < _RESERVED_PAGES // 2:
                _reserve(connection)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def _commit_batch(self, connection: sqlite3.Connection, batch: list[_Waiting]) -> None:
        results: list[tuple[_Waiting, Any, BaseException | None]] = []
        try:
            # NORMAL leaves a commit to the kernel, and a checkpoint syncs the log first: the database stays whole.
            connection.execute(f"PRAGMA synchronous={'FULL' if any(lasts for *_, lasts in batch) else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            for waiting in batch:
                connection.execute("SAVEPOINT one_write")
                try:
                    results.append((waiting, waiting[0](connection), None))
                except BaseException as error:
                    connection.execute("ROLLBACK TO one_write")
                    results.append((waiting, None, _named(error)))
                connection.execute("RELEASE one_write")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            results = [(waiting, None, _named(error)) for waiting in batch]
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting, Any, BaseException | None]]] = {}
        for result in results:
            by_loop.setdefault(result[0][2], []).append(result)
        for loop, finished in by_loop.items():
            try:
                loop.call_soon_threadsafe(_finish, finished)
            except RuntimeError:
                pass  # the loop was closed: nobody waits any more


def _free_pages(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(count)


def _reserve(connection: sqlite3.Connection) -> None:
    """Make both files large enough to go on with for a while, without a byte more from the file system."""
    try:
        connection.execute("DROP TABLE IF EXISTS reserve")
        # In two transactions: pages that are freed by the one that took them are never written.
        connection.execute(f"CREATE TABLE reserve AS SELECT zeroblob({_RESERVED_PAGES * 4096}) AS room")
        connection.execute("DROP TABLE reserve")
        connection.execute("PRAGMA shrink_memory")  # the cache holds it all
    except sqlite3.OperationalError:
        pass  # there is no room now: the next write that needs it says so


def _finish(results: list[tuple[_Waiting, Any, BaseException | None]]) -> None:
    for (_function, future, _loop, _lasts), value, error in results:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _named(error: BaseException) -> BaseException:
    """Turn SQLite's words for a full disk into the kind that a client understands."""
    if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
        return ResourceExhausted(f"metadata database: {error}: no space left on device")
    return error

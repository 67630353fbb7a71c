"""The metadata database: what lasts, what is undone, what a full disk and another version's file do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.errors import FailedPrecondition, ResourceExhausted
from wherry.store import schema
from wherry.store.database import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "meta.db")
    yield database
    database.close()


def names(database: Database) -> list[str]:
    return [row["name"] for row in database.read("SELECT name FROM namespaces ORDER BY name")]


async def write(database: Database, name: str, query: str = "INSERT INTO namespaces (name) VALUES (?)") -> int:
    def execute(connection: sqlite3.Connection) -> int:
        return connection.execute(query, (name,)).rowcount

    return await database.write(execute)


async def test_a_write_that_fails_undoes_itself_alone(database: Database) -> None:
    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO namespaces (name) VALUES ('half')")
        raise KeyError("it")

    results = await asyncio.gather(
        *(write(database, f"n{number}") for number in range(5)),
        database.write(failing),
        write(database, "n0"),
        *(write(database, f"n{number}") for number in range(5, 10)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [int] * 5 + [KeyError, sqlite3.IntegrityError] + [int] * 5
    assert names(database) == [f"n{number}" for number in range(10)]


async def test_only_what_must_last_waits_for_the_disk(database: Database) -> None:
    def level(connection: sqlite3.Connection) -> int:
        found: int = connection.execute("PRAGMA synchronous").fetchone()[0]
        return found

    normal, full = 1, 2
    assert await database.write(level) == full
    assert await database.write(level, lasts=False) == normal
    # One that must last takes along those that are committed with it.
    both = await asyncio.gather(database.write(level, lasts=False), database.write(level))
    assert both[1] == full


async def test_a_write_whose_caller_goes_away(database: Database) -> None:
    task = asyncio.create_task(write(database, "kept"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await write(database, "other")
    assert names(database) == ["kept", "other"]


async def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    for number in range(3):
        database = Database(tmp_path / "meta.db")
        assert names(database) == [f"n{before}" for before in range(number)]
        await write(database, f"n{number}")
        database.close()
    assert os.listdir(tmp_path) == ["meta.db"]


async def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    """A copy of the files while they are open is what a kill leaves."""
    database = Database(tmp_path / "meta.db")
    await write(database, "kept")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("meta.db", "meta.db-wal"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    database.close()
    again = Database(copy / "meta.db")
    assert names(again) == ["kept"]
    again.close()


async def test_a_newer_schema(tmp_path: Path) -> None:
    Database(tmp_path / "meta.db").close()
    with sqlite3.connect(tmp_path / "meta.db") as file:
        file.execute("PRAGMA user_version=1000")
    file.close()
    with pytest.raises(FailedPrecondition, match=r"meta.db has schema version 1000, this wherry knows \d+: start the"):
        Database(tmp_path / "meta.db")


async def test_an_older_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(tmp_path / "meta.db")
    await write(database, "old")
    database.close()
    newer = (*schema.MIGRATIONS, "ALTER TABLE namespaces ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue';")
    monkeypatch.setattr("wherry.store.database.MIGRATIONS", newer)
    for _ in range(2):
        migrated = Database(tmp_path / "meta.db")
        assert [tuple(row) for row in migrated.read("SELECT name, colour FROM namespaces")] == [("old", "blue")]
        migrated.close()


async def test_a_migration_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path / "meta.db").close()
    broken = (*schema.MIGRATIONS, "CREATE TABLE half (x); CREATE TABLE namespaces (x);")
    with monkeypatch.context() as patch:
        patch.setattr("wherry.store.database.MIGRATIONS", broken)
        with pytest.raises(sqlite3.OperationalError):
            Database(tmp_path / "meta.db")
    database = Database(tmp_path / "meta.db")
    assert database.read("SELECT name FROM sqlite_master WHERE name IN ('half', 'reserve')") == []
    database.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
async def test_a_full_disk(small_disk: Path) -> None:
    """Much can be deleted yet, and in the end the kind of the error says what is wrong."""
    database = Database(small_disk / "meta.db")
    for number in range(100):
        await write(database, f"n{number}")
    with (small_disk / "filler").open("wb") as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(65536))
            filler.flush()
    for number in range(100):
        await write(database, f"n{number}", "DELETE FROM namespaces WHERE name=?")
    assert names(database) == []
    with pytest.raises(ResourceExhausted, match="no space left on device"):
        for number in range(1000):
            await write(database, f"{number:09000}")
    (small_disk / "filler").unlink()
    await write(database, "last")
    assert names(database)[-1] == "last"
    database.close()

"""When garbage is collected, by each of the settings."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from wherry.daemon.collector import Collector
from wherry.daemon.config import GarbageCollection
from wherry.daemon.exchange import Exchange
from wherry.store import collection
from wherry.store.content import ContentStore
from wherry.store.database import Database

HOUR = 3600 * 10**9


class Scheduled:
    """A collector that runs, and how often it has collected."""

    def __init__(self, database: Database, collector: Collector) -> None:
        self.database = database
        self.collector = collector

    @property
    def collections(self) -> int:
        return self.collector._begun

    async def write(self, count: int = 1) -> None:
        for _ in range(count):
            await self.database.write(lambda _connection: None)

    async def after(self, count: int) -> None:
        """Wait until there have been so many collections."""
        async with asyncio.timeout(30):
            while self.collections < count or self.collector._lock.locked():
                await asyncio.sleep(0.005)

    async def stays_at(self, count: int) -> None:
        await asyncio.sleep(0.3)
        assert self.collections == count


@pytest.fixture
async def scheduled(tmp_path: Path) -> AsyncIterator[Callable[..., Scheduled]]:
    async with AsyncExitStack() as undo:

        def start(**settings: Any) -> Scheduled:
            database = Database(tmp_path / "meta.db")
            undo.callback(database.close)
            content = ContentStore(database, str(tmp_path / "content"))
            collector = Collector(database, content, {}, Exchange(), GarbageCollection(**settings))
            running = asyncio.create_task(collector.run())

            async def stop() -> None:
                running.cancel()
                await asyncio.wait([running])

            undo.push_async_callback(stop)
            return Scheduled(database, collector)

        yield start


async def test_the_first_comes_after_the_start(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=10**6)
    await daemon.after(1)
    await daemon.stays_at(1)


async def test_a_deletion_is_followed_by_one(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, pause_threshold=0.5)
    await daemon.stays_at(0)
    daemon.collector.deleted()
    await daemon.after(1)
    daemon.collector.deleted()
    await daemon.after(2)
    await daemon.stays_at(2)


async def test_a_share_of_the_time_is_not_passed(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, pause_threshold=0.0001)
    daemon.collector.deleted()
    await daemon.after(1)
    daemon.collector.deleted()
    await daemon.stays_at(1)
    due = daemon.collector._due()
    assert due is not None and due > time.monotonic() + 5
    await daemon.collector.collect()  # which is asked for
    assert daemon.collections == 2


async def test_many_deletions_are_followed_by_one_at_once(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, pause_threshold=0.0001, deletion_threshold=3)
    daemon.collector.deleted()
    daemon.collector.deleted()
    await daemon.stays_at(0)
    for number in (1, 2):
        for _ in range(3):
            daemon.collector.deleted()
        await daemon.after(number)


async def test_writes_are_worth_one(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, mutation_threshold=4, pause_threshold=0.5)
    await daemon.write(3)
    await daemon.stays_at(0)
    await daemon.write()
    await daemon.after(1)
    await daemon.stays_at(1)  # its own writes count for nothing
    await daemon.write(4)
    await daemon.after(2)


async def test_without_a_threshold_writes_are_not(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, mutation_threshold=0)
    await daemon.write(300)
    await daemon.stays_at(0)


async def test_a_delay_is_kept_and_not_put_off(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=0, deletion_threshold=1, schedule_delay=200_000_000)
    began = time.monotonic()
    while not daemon.collections:
        daemon.collector.deleted()
        await asyncio.sleep(0.01)
        assert time.monotonic() < began + 30
    assert time.monotonic() >= began + 0.2
    began = time.monotonic()
    await daemon.collector.collect()
    assert time.monotonic() >= began + 0.2


async def test_who_waits_together_has_one_together(scheduled: Callable[..., Scheduled]) -> None:
    daemon = scheduled(startup_delay=HOUR)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(daemon.collector.collect())
    assert daemon.collections <= 2


async def test_a_failure_is_told_to_who_waits_and_tried_again(
    scheduled: Callable[..., Scheduled], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = scheduled(startup_delay=HOUR)

    def fail(_connection: sqlite3.Connection) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(collection, "_watch", fail)
        with pytest.raises(OSError, match="no"):
            await daemon.collector.collect()
    assert daemon.collector._due() is not None
    await daemon.collector.collect()
    assert daemon.collector._due() is None

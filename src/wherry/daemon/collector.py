"""When garbage is collected: as containerd's scheduler does it, and on demand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from wherry.api.events import events_pb2
from wherry.api.services.images.v1 import images_pb2
from wherry.daemon.config import GarbageCollection
from wherry.daemon.exchange import Exchange
from wherry.store import collection
from wherry.store.collection import Collected
from wherry.store.content import ContentStore
from wherry.store.database import Database
from wherry.store.ingest import to_the_end
from wherry.store.marking import Marker
from wherry.store.snapshots import Snapshotter

log = logging.getLogger(__name__)

#: Seconds that a collection counts as at the least: what is deleted one after the other is collected together.
_SHORTEST = 0.005
#: Seconds between collections if pause_threshold does not say.
_INTERVAL = 1.0
#: Of the time, what collections may take at the most, whatever pause_threshold says.
_MOST = 0.5


class Collector:
    """Collects garbage in the background."""

    def __init__(
        self,
        database: Database,
        content: ContentStore,
        snapshotters: Mapping[str, Snapshotter],
        exchange: Exchange,
        settings: GarbageCollection | None = None,
    ) -> None:
        self._database = database
        self._content = content
        self._snapshotters = snapshotters
        self._exchange = exchange
        self._settings = settings or GarbageCollection()
        self._lock = asyncio.Lock()
        self._marker = Marker(database.path)
        #: Deletions and writes since the last collection began, and what is to look at their number again.
        self._deletions = 0
        self._mutations = 0
        self._changed = asyncio.Event()
        #: Collections begun, and the last of them that succeeded.
        self._begun = 0
        self._succeeded = 0
        #: Seconds that collections took so far.
        self._took = 0.0
        #: When the last one ended (monotonic); None before the first.
        self._ended: float | None = None
        database.on_write = self._written
        #: Called when records have been collected, for what lives as long as they do.
        self.followers: list[Callable[[], Awaitable[None]]] = []

    def deleted(self) -> None:
        """Say that something was deleted: what it alone kept can go."""
        self._deletions += 1
        self._changed.set()

    def _written(self) -> None:
        self._mutations += 1
        if self._mutations == self._settings.mutation_threshold:
            self._changed.set()

    async def run(self) -> None:
        """Collect whenever there is reason to, until cancelled."""
        first = self._settings.startup_delay / 1e9
        if first > 0:
            await asyncio.sleep(first)
            await self._try()
        at: float | None = None
        while True:
            self._changed.clear()
            due = self._due()
            # What asks for one now does not put off what was asked for before.
            at = min(at, due) if at is not None and due is not None else due
            try:
                async with asyncio.timeout(None if at is None else max(0.0, at - time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                await self._try()
                at = None

    def _due(self) -> float | None:
        """Return when the next collection is to begin (monotonic); None if nothing asks for one."""
        settings, now = self._settings, time.monotonic()
        soon = now + settings.schedule_delay / 1e9
        many = 0 < settings.deletion_threshold <= self._deletions
        enough = 0 < settings.mutation_threshold <= self._mutations
        if self._ended is None:
            # Nothing is known yet of the time that one takes.
            return soon if many or enough or (self._deletions and not settings.deletion_threshold) else None
        if not self._deletions and not enough:
            return None
        paced = max(now, self._ended + self._interval())
        return min(soon, paced) if many else paced

    def _interval(self) -> float:
        share = min(self._settings.pause_threshold, _MOST)
        if share <= 0 or not self._begun:
            return _INTERVAL
        average = max(self._took / self._begun, _SHORTEST)
        return average / share - average

    async def _try(self) -> None:
        try:
            await self._collect_after(self._begun)
        except Exception:
            log.exception("garbage collection")
            await asyncio.sleep(_INTERVAL)

    async def collect(self) -> None:
        """Collect now; return when records and files are gone. Who asks while others wait has one with them."""
        asked = self._begun
        if self._settings.schedule_delay > 0:
            await asyncio.sleep(self._settings.schedule_delay / 1e9)
        await self._collect_after(asked)

    async def _collect_after(self, asked: int) -> None:
        """Return after a collection that began when there had been as many as `asked`, or later, has succeeded."""
        async with self._lock:
            if self._succeeded <= asked:
                await to_the_end(self._collect())

    async def _collect(self) -> None:
        self._begun += 1
        deletions, self._deletions, self._mutations = self._deletions, 0, 0
        began = time.monotonic()
        collected = Collected()
        try:
            try:
                await collection.collect(self._database, collected, self._marker)
            finally:
                self._ended = time.monotonic()
                self._took += self._ended - began
                await self._dispose(collected)
        except BaseException:
            self._deletions += max(1, deletions)
            raise
        for follower in self.followers:
            await follower()
        self._succeeded = self._begun
        if collected:
            log.debug(
                "collected %d blobs, %d snapshots, %d images, %d ingests, %d leases in %.1f ms",
                len(collected.blobs),
                len(collected.snapshots),
                len(collected.images),
                len(collected.ingests),
                len(collected.leases),
                (time.monotonic() - began) * 1000,
            )

    async def _dispose(self, collected: Collected) -> None:
        """Remove the files of what has no records any more, and tell of it."""
        for namespace, image in collected.images:
            self._exchange.publish(namespace, "/images/delete", images_pb2.ImageDelete(name=image))
        for namespace, owner, key, _id in collected.snapshots:
            event = events_pb2.SnapshotRemove(key=key, snapshotter=owner)
            self._exchange.publish(namespace, "/snapshot/remove", event)
        if collected.blobs:
            await self._content.discard(collected.blobs)
        await self._content.discard_ingests(collected.ingests)
        for name, snapshotter in self._snapshotters.items():
            ids = [id for _namespace, owner, _key, id in collected.snapshots if owner == name]
            if ids:
                await snapshotter.discard(ids)

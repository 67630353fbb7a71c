"""When garbage is collected: soon after start and after deletions, now and then otherwise, and on demand."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from wherry.api.events import events_pb2
from wherry.daemon.exchange import Exchange
from wherry.store import collection
from wherry.store.content import ContentStore
from wherry.store.database import Database
from wherry.store.snapshots import Snapshotter

log = logging.getLogger(__name__)

#: Seconds between the daemon's start and the first collection. Deletions are followed by one at once, as in containerd.
_STARTUP_DELAY = 0.1

#: How much of the time collections may take at the most: writes wait for them, and they look at everything there is.
#: containerd's pause_threshold.
_SHARE = 0.02

#: Writes after which a collection is worth its while without any deletion, for what has expired.
_MUTATIONS = 100

#: Seconds between looks at the number of writes.
_INTERVAL = 30.0


class Collector:
    """Collects garbage in the background."""

    def __init__(
        self, database: Database, content: ContentStore, snapshotters: Mapping[str, Snapshotter], exchange: Exchange
    ) -> None:
        self._database = database
        self._content = content
        self._snapshotters = snapshotters
        self._exchange = exchange
        self._wanted = asyncio.Event()
        self._wanted.set()  # what was left by the daemon before this one
        self._lock = asyncio.Lock()
        self._seen = 0
        #: Seconds to leave between the last collection and the next.
        self._pause = 0.0
        #: Called when records have been collected, for what lives as long as they do.
        self.followers: list[Callable[[], Awaitable[None]]] = []

    def deleted(self) -> None:
        """Say that something was deleted: what it alone kept can go."""
        self._wanted.set()

    async def run(self) -> None:
        """Collect whenever there is reason to, until cancelled."""
        await asyncio.sleep(_STARTUP_DELAY)
        while True:
            try:
                async with asyncio.timeout(_INTERVAL):
                    await self._wanted.wait()
            except TimeoutError:
                if self._database.writes - self._seen < _MUTATIONS:
                    continue
            try:
                await self.collect()
            except Exception:
                log.exception("garbage collection")
            await asyncio.sleep(self._pause)

    async def collect(self) -> None:
        """Collect now; return when records and files are gone."""
        async with self._lock:
            self._wanted.clear()
            began = time.monotonic()
            collected = await collection.collect(self._database)
            self._pause = (time.monotonic() - began) * (1 / _SHARE - 1)
            for follower in self.followers:
                await follower()
            self._seen = self._database.writes
            if not collected:
                return
            await self._content.discard(collected.blobs)
            if collected.ingests:
                await self._content.collect()
            for name, snapshotter in self._snapshotters.items():
                ids = [id for _namespace, owner, _key, id in collected.snapshots if owner == name]
                if ids:
                    await snapshotter.discard(ids)
            for namespace, name, key, _id in collected.snapshots:
                event = events_pb2.SnapshotRemove(key=key, snapshotter=name)
                self._exchange.publish(namespace, "/snapshot/remove", event)
            log.debug(
                "collected %d blobs, %d snapshots, %d ingests, %d leases in %.1f ms",
                len(collected.blobs),
                len(collected.snapshots),
                len(collected.ingests),
                len(collected.leases),
                (time.monotonic() - began) * 1000,
            )

"""What transfers share: how much moves and is extracted at a time, and who does what several want."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wherry.client.content import Content
from wherry.client.images import Images, descriptor_of
from wherry.client.leases import Leases
from wherry.oci.descriptor import Descriptor
from wherry.transfer.locks import Locks
from wherry.transfer.progress import Progress
from wherry.transfer.unpack import Unpacker

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel

#: Blobs that are fetched or pushed at a time: as Docker and containerd's CRI have it.
DEFAULT_CONCURRENCY = 3


def _processors() -> int:
    return len(os.sched_getaffinity(0))


@dataclass
class Limits:
    """How much is done side by side, over all transfers of a process."""

    downloads: int = DEFAULT_CONCURRENCY
    uploads: int = DEFAULT_CONCURRENCY
    unpacks: int = field(default_factory=_processors)


class Transfers:
    """The transfers of one process, to and from the daemon at the other end of a channel."""

    def __init__(self, channel: Channel, limits: Limits, labels: Mapping[str, str] | None = None) -> None:
        """`labels` are put on snapshots that are being extracted to."""
        self.channel = channel
        self.locks = Locks()
        self.downloads = asyncio.Semaphore(limits.downloads)
        self.uploads = asyncio.Semaphore(limits.uploads)
        self.unpacks = asyncio.Semaphore(limits.unpacks)
        self.labels = dict(labels or {})

    @asynccontextmanager
    async def session(self, namespace: str, lease: str = "") -> AsyncIterator[Session]:
        """Work in a namespace, under the caller's lease or one that ends with the block."""
        if lease:
            yield Session(self, namespace, lease)
            return
        async with Leases(self.channel, namespace).hold() as held:
            yield Session(self, namespace, held.id)


class Session:
    """One transfer's dealings with the daemon."""

    def __init__(self, transfers: Transfers, namespace: str, lease: str) -> None:
        self.channel = transfers.channel
        self.namespace = namespace
        self.lease = lease
        self.locks = transfers.locks
        self.downloads = transfers.downloads
        self.uploads = transfers.uploads
        self._transfers = transfers

    @property
    def content(self) -> Content:
        """The namespace's blobs; what is written joins the lease."""
        return Content(self.channel, self.namespace, self.lease)

    @property
    def images(self) -> Images:
        """The namespace's images."""
        return Images(self.channel, self.namespace, self.lease)

    async def target(self, name: str) -> Descriptor:
        """Return what an image's name refers to. NotFound."""
        return descriptor_of(await self.images.get(name))

    def unpacker(self, snapshotter: str, progress: Progress) -> Unpacker:
        """Return what unpacks by a snapshotter ("": the default)."""
        return Unpacker(
            self.channel,
            self.namespace,
            self.lease,
            snapshotter,
            locks=self.locks,
            slots=self._transfers.unpacks,
            progress=progress,
            labels=self._transfers.labels,
        )

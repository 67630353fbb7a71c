"""Namespaces of a daemon, and what is in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.harness.daemon import Daemon
from wherry.client.content import Content
from wherry.client.images import Images, descriptor_of
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel


@dataclass
class Place:
    """A namespace of a daemon."""

    channel: Channel
    namespace: str
    daemon: Daemon

    @property
    def images(self) -> Images:
        return Images(self.channel, self.namespace)

    @property
    def content(self) -> Content:
        return Content(self.channel, self.namespace)

    async def state(self) -> dict[str, Any]:
        """Return all that an import makes."""
        content = await self.content.list()
        images = await self.images.list()
        snapshots = await Snapshots(self.channel, self.namespace).list()
        return {
            "images": {image.name: (descriptor_of(image).to_json(), dict(image.labels)) for image in images},
            "content": {info.digest: (info.size, dict(info.labels)) for info in content},
            "snapshots": {info.name: (info.parent, info.kind) for info in snapshots},
        }

    async def half_made(self) -> list[str]:
        """Return what an import that failed must not leave."""
        ingests = await self.content.statuses()
        leases = await Leases(self.channel, self.namespace).list()
        images = await self.images.list()
        snapshots = await Snapshots(self.channel, self.namespace).list(["kind==active"])
        return [
            *(ingest.ref for ingest in ingests),
            *(lease.id for lease in leases),
            *(image.name for image in images),
            *(info.name for info in snapshots),
        ]

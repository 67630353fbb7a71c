"""Images pulled and pushed by this process, for a daemon that does not do it: containerd before 1.7."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from wherry.oci.platform import Platform
from wherry.registry.client import Client, Credentials, Options, Repository
from wherry.transfer import operations
from wherry.transfer.image_store import ImageStore
from wherry.transfer.progress import Progress, Report
from wherry.transfer.selection import Selection
from wherry.transfer.session import Limits, Transfers

if TYPE_CHECKING:
    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.client.transfer import Registry
    from wherry.rpc.channel import Channel

#: Where hosts.toml files are looked for if nobody says.
HOSTS_DIRECTORIES = ("/etc/containerd/certs.d", "/etc/docker/certs.d")


class LocalTransferrer:
    """What `wherry.client.transfer.Transferrer` has the daemon do, done here: for an event loop's channel.

    Blobs go through the daemon's Content service, layers through its Diff and Snapshots services. The directory of
    hosts.toml files is this machine's.
    """

    def __init__(self, channel: Channel, namespace: str) -> None:
        self._transfers = Transfers(channel, Limits())
        self._namespace = namespace

    async def pull(
        self,
        reference: str,
        *,
        name: str = "",
        platforms: Sequence[Platform | str] = (),
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        labels: Mapping[str, str] | None = None,
        registry: Registry,
        on_progress: Report | None = None,
    ) -> Image:
        """Pull an image by its full reference, and return it."""
        wanted = [] if all_platforms else [Platform.of(each) for each in platforms or (None,)]
        store = ImageStore(
            name or reference,
            labels=labels,
            selection=Selection(wanted),
            unpacks=[(each, snapshotter) for each in wanted or (Platform.host(),)] if unpack else (),
        )
        async with _repository(reference, registry) as source, self._transfers.session(self._namespace) as session:
            (image,) = await operations.pull(session, source, store, Progress(on_progress))
        made: Image = image
        return made

    async def push(
        self,
        name: str,
        reference: str,
        *,
        platforms: Sequence[Platform | str] = (),
        registry: Registry,
        on_progress: Report | None = None,
    ) -> None:
        """Push an image to a reference."""
        store = ImageStore(name, selection=Selection([Platform.of(each) for each in platforms]))
        async with _repository(reference, registry) as target, self._transfers.session(self._namespace) as session:
            await operations.push(session, store, target, Progress(on_progress))


@asynccontextmanager
async def _repository(reference: str, registry: Registry) -> AsyncIterator[Repository]:
    provider = registry.credentials

    async def ask(host: str, about: str, _challenges: Sequence[str]) -> Credentials | None:
        assert provider is not None
        return await asyncio.to_thread(provider, host, about)

    options = Options(
        hosts_dirs=(registry.hosts_dir,) if registry.hosts_dir else HOSTS_DIRECTORIES,
        credentials=ask if provider is not None else None,
        default_scheme="http" if registry.plain_http else "",
        headers=registry.headers,
    )
    async with Client(options) as client:
        yield client.repository(reference)

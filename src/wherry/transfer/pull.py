"""Images pulled: resolved, fetched and unpacked at the same time, named when all of it is there."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from wherry.client.images import check_depth
from wherry.errors import InvalidArgument, NotFound
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import (
    CONFIGS,
    INDEXES,
    MANIFESTS,
    Index,
    Manifest,
    diff_ids,
    parse,
    parse_json,
    reference_labels,
)
from wherry.oci.platform import Platform
from wherry.transfer.failures import first
from wherry.transfer.image_store import ImageStore
from wherry.transfer.ingest import Ingester, source_label
from wherry.transfer.selection import Selection, platform_of

if TYPE_CHECKING:
    from wherry.transfer.progress import Progress
    from wherry.transfer.session import Session

_Unpack = tuple[Platform, str]

#: Layers whose fetching has begun and not ended; most of them wait for their turn.
_AHEAD = 32


class Source(Protocol):
    """A repository that an image is fetched from (`wherry.registry.client.Repository`)."""

    @property
    def host(self) -> str: ...
    @property
    def name(self) -> str: ...
    async def resolve(self) -> Descriptor: ...
    async def fetch_document(self, descriptor: Descriptor) -> bytes: ...
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[bytes]: ...


class Puller:
    """Fetches one image and all that it needs. Used once."""

    def __init__(self, session: Session, source: Source, store: ImageStore, progress: Progress) -> None:
        self._session = session
        self._source = source
        self._store = store
        self._progress = progress
        self._content = session.content
        self._ingester = Ingester(session.channel, session.namespace, session.lease, session.locks, progress)
        self._labels = {source_label(source.host): source.name}
        self._blobs: dict[str, asyncio.Task[None]] = {}
        self._begun: dict[str, asyncio.Event] = {}
        self._seen: set[str] = set()
        #: Manifests that an index offers for a platform to unpack.
        self._chosen: dict[str, list[_Unpack]] = {}

    async def pull(self, target: Descriptor) -> None:
        """Fetch a manifest or index with what is selected of it, and unpack that.

        NotFound if there is nothing for the platforms asked for. When anything fails, all the rest is stopped.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._fetch(target, "", 0)
        except BaseExceptionGroup as group:
            raise first(group) from None

    async def _fetch(self, descriptor: Descriptor, parent: str, depth: int, *, layers: bool = True) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        check_depth(descriptor, depth)
        if descriptor.media_type not in INDEXES and descriptor.media_type not in MANIFESTS:
            await self._blob(descriptor, parent)
            return
        self._progress.waiting(descriptor, [parent] if parent else [])
        document = await self._document(descriptor)
        parsed = parse(descriptor, document)
        await self._ingester.ingest(
            descriptor, lambda offset: _bytes(document[offset:]), {**self._labels, **reference_labels(parsed)}
        )
        if isinstance(parsed, Index):
            await self._fetch_index(parsed, depth)
        else:
            await self._fetch_manifest(parsed, layers=layers, top=depth == 0)

    async def _document(self, descriptor: Descriptor) -> bytes:
        try:
            return await self._content.read_document(descriptor.digest)
        except NotFound:
            return await self._source.fetch_document(descriptor)

    async def _fetch_index(self, index: Index, depth: int) -> None:
        wanted = self._store.selection.children(index.descriptor, index.manifests)
        for platform, snapshotter in self._store.unpacks:
            best = [each for each in Selection([platform]).suitable(index.manifests) if each in wanted]
            for each in best:
                self._chosen.setdefault(each.digest, []).append((platform, snapshotter))
        async with asyncio.TaskGroup() as tasks:
            for each in wanted:
                tasks.create_task(self._fetch(each, index.descriptor.digest, depth + 1))
            if self._store.all_metadata:
                for each in index.manifests:
                    if each not in wanted:
                        tasks.create_task(self._fetch(each, index.descriptor.digest, depth + 1, layers=False))

    async def _fetch_manifest(self, manifest: Manifest, *, layers: bool, top: bool) -> None:
        parent = manifest.descriptor.digest
        await self._blob(manifest.config, parent)
        if not layers:
            return
        config: dict[str, Any] = {}
        document = b""
        if manifest.config.media_type in CONFIGS:
            document = await self._content.read_document(manifest.config.digest)
            config = parse_json(document, f"config {manifest.config.digest}")
        platform = platform_of(manifest.descriptor) or Platform.from_json(config)
        if not self._store.selection.wants(platform):
            wanted = ", ".join(map(str, self._store.selection.platforms))
            if top:
                raise NotFound(f"image for {wanted}: it is for {platform}")
            return
        for snapshotter in self._snapshotters(manifest.descriptor, platform) if config else ():
            ids = diff_ids(document, manifest)
            unpacker = self._session.unpacker(snapshotter, self._progress)
            work = unpacker.unpack(
                manifest.config,
                manifest.layers,
                ids,
                functools.partial(self._ready, parent=parent),
                functools.partial(self._may_be_followed, parent=parent),
            )
            self._tasks.create_task(_discarded(work))
        await self._fetch_layers(manifest.layers, parent)

    async def _fetch_layers(self, layers: Sequence[Descriptor], parent: str) -> None:
        """Fetch layers, so many at a time that there may be any number of them."""
        waiting: set[asyncio.Task[None]] = set()
        for layer in layers:
            waiting.add(self._start(layer, parent))
            if len(waiting) >= _AHEAD:
                _done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def _snapshotters(self, manifest: Descriptor, platform: Platform | None) -> Sequence[str]:
        """Return what a manifest is to be unpacked by."""
        if manifest.platform:
            unpacks: Sequence[_Unpack] = self._chosen.get(manifest.digest, ())
        else:
            unpacks = [each for each in self._store.unpacks if platform is None or platform in each[0].suits()]
        return list(dict.fromkeys(snapshotter for _platform, snapshotter in unpacks))

    def _start(self, descriptor: Descriptor, parent: str) -> asyncio.Task[None]:
        task = self._blobs.get(descriptor.digest)
        if task is None:
            self._progress.waiting(descriptor, [parent])
            self._begun[descriptor.digest] = asyncio.Event()
            task = self._blobs[descriptor.digest] = self._tasks.create_task(self._ingest(descriptor))
        return task

    async def _blob(self, descriptor: Descriptor, parent: str) -> None:
        await asyncio.shield(self._start(descriptor, parent))

    async def _ready(self, layer: Descriptor, parent: str) -> None:
        await asyncio.shield(self._start(layer, parent))

    async def _may_be_followed(self, layer: Descriptor, parent: str) -> bool:
        """Wait until a layer is on its way, or there; false if it is there."""
        done = self._start(layer, parent)
        begun = asyncio.ensure_future(self._begun[layer.digest].wait())
        try:
            await asyncio.wait([done, begun], return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        return not done.done()

    async def _ingest(self, descriptor: Descriptor) -> None:
        # Those that wait for a slot hold no ingest: another transfer of the same blob goes on.
        async with self._session.downloads:
            await self._ingester.ingest(
                descriptor,
                lambda offset: self._source.fetch(descriptor, offset),
                self._labels,
                self._begun[descriptor.digest].set,
            )


async def _bytes(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


async def _discarded(work: Any) -> None:
    await work


def check_target(target: Descriptor, reference: str) -> None:
    """Raise InvalidArgument for what no image can be."""
    if target.media_type not in INDEXES and target.media_type not in MANIFESTS:
        raise InvalidArgument(f"{reference}: media type {target.media_type or 'none'} is no image's")

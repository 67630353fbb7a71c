"""Images pushed: blobs first, then what refers to them, the name last."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from wherry.client.images import check_depth
from wherry.errors import NotFound
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import INDEXES, MANIFESTS, Index, parse
from wherry.transfer.failures import first
from wherry.transfer.ingest import source_label
from wherry.transfer.selection import Selection, platform_of

if TYPE_CHECKING:
    from wherry.registry.push import Pushed
    from wherry.transfer.progress import Progress
    from wherry.transfer.session import Session


class Destination(Protocol):
    """A repository that an image is pushed to (`wherry.registry.client.Repository`)."""

    @property
    def host(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def tag(self) -> str: ...
    async def exists(self, descriptor: Descriptor) -> bool: ...
    async def push_blob(
        self,
        descriptor: Descriptor,
        read: Callable[[int], AsyncIterator[bytes]],
        *,
        mount_from: Sequence[str] = (),
        on_progress: Callable[[int], None] | None = None,
    ) -> Pushed: ...
    async def push_manifest(self, descriptor: Descriptor, document: bytes, tag: str = "") -> None: ...


class Pusher:
    """Pushes one image. Used once."""

    def __init__(self, session: Session, destination: Destination, selection: Selection, progress: Progress) -> None:
        self._session = session
        self._destination = destination
        self._selection = selection
        self._progress = progress
        self._content = session.content
        self._source = source_label(destination.host)
        self._pushed: dict[str, asyncio.Task[None]] = {}

    async def push(self, target: Descriptor) -> Descriptor:
        """Push a manifest, or an index with all that it names, and return what the name refers to there.

        Of an index that is not here as a whole, or of which platforms are selected, the one manifest that is here and
        selected is pushed in its place. NotFound if there is none, or there are several and something is missing.
        """
        chosen = await self._choose(target)
        if chosen.digest != target.digest:
            self._progress.say(f"only {platform_of(chosen) or chosen.digest} of the image is pushed", "", chosen)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await self._push(chosen, "", 0, tag=self._destination.tag)
        except BaseExceptionGroup as group:
            raise first(group) from None
        return chosen

    async def _choose(self, target: Descriptor) -> Descriptor:
        if target.media_type not in INDEXES:
            return target
        document = parse(target, await self._content.read_document(target.digest))
        if not isinstance(document, Index):
            return target
        if self._selection.platforms:
            wanted = self._selection.children(target, document.manifests)
        elif not (missing := [each for each in document.manifests if not await self._is_here(each)]):
            return target
        else:
            wanted = [each for each in document.manifests if each not in missing]
        images = [each for each in wanted if not str(platform_of(each) or "").startswith("unknown")]
        if len(images) == 1:
            return images[0]
        if not images:
            raise NotFound(f"manifest of {target.digest}: none of its manifests is here with all its blobs")
        if self._selection.platforms and len(images) == len(document.manifests):
            return target
        names = ", ".join(str(platform_of(each)) for each in images)
        raise NotFound(
            f"some manifests of {target.digest}: only {names} are here: pull all platforms, or push one with --platform"
        )

    async def _is_here(self, descriptor: Descriptor, depth: int = 0) -> bool:
        """Tell whether a manifest or index, and all that it needs, is in the content store."""
        check_depth(descriptor, depth)
        try:
            document = parse(descriptor, await self._content.read_document(descriptor.digest))
            if isinstance(document, Index):
                return all([await self._is_here(each, depth + 1) for each in document.manifests])
            for each in (document.config, *document.layers):
                await self._content.info(each.digest)
        except NotFound:
            return False
        return True

    async def _push(self, descriptor: Descriptor, parent: str, depth: int, *, tag: str = "") -> None:
        check_depth(descriptor, depth)
        self._progress.waiting(descriptor, [parent] if parent else [])
        document = await self._read(descriptor)
        parsed = parse(descriptor, document)
        if isinstance(parsed, Index):
            async with asyncio.TaskGroup() as tasks:
                for each in parsed.manifests:
                    if each.media_type in INDEXES or each.media_type in MANIFESTS:
                        tasks.create_task(self._push(each, descriptor.digest, depth + 1))
                    else:
                        tasks.create_task(self._blob(each, descriptor.digest))
        else:
            async with asyncio.TaskGroup() as tasks:
                for each in (parsed.config, *parsed.layers):
                    tasks.create_task(self._blob(each, descriptor.digest))
        if not tag and await self._destination.exists(descriptor):
            self._progress.done("already exists", descriptor)
            return
        await self._destination.push_manifest(descriptor, document, tag)
        self._progress.done("complete", descriptor)

    async def _read(self, descriptor: Descriptor) -> bytes:
        try:
            return await self._content.read_document(descriptor.digest)
        except NotFound:
            raise NotFound(f"manifest {descriptor.digest}") from None

    async def _blob(self, descriptor: Descriptor, parent: str) -> None:
        task = self._pushed.get(descriptor.digest)
        if task is None:
            self._progress.waiting(descriptor, [parent])
            task = self._pushed[descriptor.digest] = self._tasks.create_task(self._push_blob(descriptor))
        await asyncio.shield(task)

    async def _push_blob(self, descriptor: Descriptor) -> None:
        async with self._session.uploads:
            try:
                labels = (await self._content.info(descriptor.digest)).labels
            except NotFound:
                if await self._destination.exists(descriptor):
                    self._progress.done("already exists", descriptor)
                    return
                raise NotFound(f"blob {descriptor.digest}: neither here nor in {self._destination.name}") from None
            sources = [each for each in labels.get(self._source, "").split(",") if each]
            how = await self._destination.push_blob(
                descriptor,
                lambda offset: self._content.read(descriptor.digest, offset),
                mount_from=[each for each in sources if each != self._destination.name],
                on_progress=lambda size: self._progress.moved("uploading", descriptor, size),
            )
        self._progress.done("already exists" if how.value == "existed" else "complete", descriptor)
        known = sorted({*sources, self._destination.name})
        if known != sources:
            await self._content.update_labels(descriptor.digest, {self._source: ",".join(known)})

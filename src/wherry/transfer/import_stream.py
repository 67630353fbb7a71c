"""Images imported from an archive that comes in by a stream: read in a thread, unpacked side by side."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, BinaryIO

from wherry.client.archive import TarMembers
from wherry.client.archive_reader import IMAGE_NAME, ArchiveReader
from wherry.client.content import Content
from wherry.client.images import check_depth
from wherry.errors import InvalidArgument, NotFound
from wherry.oci import digest as digests
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import CONFIGS, OCI_INDEX, Index, Manifest, parse, reference_labels
from wherry.oci.platform import Platform
from wherry.rpc.bridge_channel import BridgeChannel
from wherry.transfer.failures import first

if TYPE_CHECKING:
    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.client.images import ImageManifest
    from wherry.transfer.image_store import ImageStore
    from wherry.transfer.progress import Progress
    from wherry.transfer.session import Session


class Importer:
    """Imports one archive. Used once."""

    def __init__(self, session: Session, store: ImageStore, progress: Progress, *, compress: bool = False) -> None:
        """With `compress` the layers of a Docker archive are compressed."""
        self._session = session
        self._store = store
        self._progress = progress
        self._compress = compress
        self._images = session.images
        self._content = session.content
        self._seen: dict[str, bool] = {}
        #: The platforms of images that are not wanted.
        self._others: set[str] = set()
        self._manifests: dict[str, ImageManifest] = {}

    async def run(self, file: BinaryIO) -> list[Image]:
        """Read an archive, which a thread does, and give its images names; see `wherry.client.archive_import`.

        InvalidArgument for what is no image archive, or none for the platforms asked for; NotFound for a blob that is
        missing.
        """
        loop = asyncio.get_running_loop()
        targets = await loop.run_in_executor(None, self._read, file, loop)
        kept = [target for target in targets if await self._keep(target[1])]
        if not kept:
            wanted = ", ".join(map(str, self._store.selection.platforms))
            others = ", ".join(sorted(self._others))
            which = f"image for {wanted} in the archive" if targets and wanted else "image in the archive"
            raise NotFound(f"{which}: it is for {others}" if others else which)
        await self._unpack()
        return await self._name(kept)

    def _read(self, file: BinaryIO, loop: asyncio.AbstractEventLoop) -> list[tuple[list[str], Descriptor]]:
        channel = BridgeChannel(self._session.channel, loop)
        content = Content(channel, self._session.namespace, self._session.lease)

        def step(line: str) -> None:
            loop.call_soon_threadsafe(self._progress.say, line)

        archive = ArchiveReader(content, self._session.lease, "", step, compress=self._compress)

        async def read() -> list[tuple[list[str], Descriptor]]:
            await archive.read(TarMembers(file))
            return await archive.targets()

        return channel.run(read())

    async def _keep(self, descriptor: Descriptor, depth: int = 0) -> bool:
        """Label a manifest or index, if it is wanted, and what it refers to."""
        if descriptor.digest not in self._seen:
            check_depth(descriptor, depth)
            self._seen[descriptor.digest] = await self._keep_unseen(descriptor, depth)
        return self._seen[descriptor.digest]

    async def _keep_unseen(self, descriptor: Descriptor, depth: int) -> bool:
        document = await self._images.document(descriptor)
        if isinstance(document, Manifest):
            return await self._keep_manifest(document)
        selection = self._store.selection
        wanted = selection.children(descriptor, document.manifests) if document.manifests else []
        kept = []
        for each in wanted:
            try:
                if await self._keep(each, depth + 1):
                    kept.append(each)
            except NotFound:
                # Archives need not have all that an index of theirs names: `docker save` writes one platform.
                if selection.platforms:
                    raise
        if kept:
            await self._content.update_labels(descriptor.digest, reference_labels(Index(descriptor, kept)))
        return bool(kept)

    async def _keep_manifest(self, document: Manifest) -> bool:
        manifest = await self._images.with_config(document)
        if not self._store.selection.wants(manifest.platform):
            self._others.add(str(manifest.platform))
            return False
        await self._images.check_layers(manifest)
        await self._content.update_labels(document.descriptor.digest, reference_labels(document))
        self._manifests[document.descriptor.digest] = manifest
        return True

    async def _unpack(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for platform, snapshotter in self._store.unpacks:
                    for manifest in self._best(platform):
                        document = manifest.manifest
                        unpacker = self._session.unpacker(snapshotter, self._progress)
                        tasks.create_task(
                            unpacker.unpack(document.config, document.layers, manifest.diff_ids(), _is_there)
                        )
        except BaseExceptionGroup as group:
            raise first(group) from None

    def _best(self, platform: Platform) -> list[ImageManifest]:
        """Return the images that suit a platform best, and those that do not say what they are for."""
        images = [each for each in self._manifests.values() if each.manifest.config.media_type in CONFIGS]
        for suitable in platform.suits():
            found = [each for each in images if each.platform == suitable]
            if found:
                break
        else:
            found = []
        return [*found, *(each for each in images if each.platform is None)]

    async def _name(self, targets: list[tuple[list[str], Descriptor]]) -> list[Image]:
        made: list[Image] = []
        if self._store.name:
            index = await self._write_index([target for _names, target in targets])
            made += await self._store.save(self._images, index, [self._store.name])
        for names, target in targets:
            given = [target]
            if len(names) > 1:
                # Docker's archives give an image several names.
                given = [target.annotated({IMAGE_NAME: each}) for each in names]
            for each in given:
                if wanted := self._store.names_of_imported(each):
                    made += await self._store.save(self._images, target, list(dict.fromkeys(wanted)))
        if not made:
            raise InvalidArgument("the archive names none of its images: give a name")
        for image in made:
            self._progress.say("saved", image.name)
        return made

    async def _write_index(self, targets: list[Descriptor]) -> Descriptor:
        """Write an index of all that the archive has: what --index-name names."""
        document = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [each.to_json() for each in targets]},
            separators=(",", ":"),
        ).encode()
        descriptor = Descriptor(OCI_INDEX, digests.of(document), len(document))
        index = parse(descriptor, document)
        await self._content.write(
            f"index-{descriptor.digest}", [document], expected=descriptor.digest, labels=reference_labels(index)
        )
        return descriptor


async def _is_there(_layer: Descriptor) -> None:
    """Layers of an archive are in the content store before any is unpacked."""

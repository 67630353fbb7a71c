"""Images exported to one OCI archive that Docker can load as well: an OCI layout with a manifest.json beside its index.

Member for member what ctr writes, so equal images are equal archives.
"""

from __future__ import annotations

import json

from wherry.client.archive_reader import IMAGE_NAME, REF_NAME
from wherry.client.images import check_depth, check_size, descriptor_of
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.images.archive import Writer
from wherry.images.tar import BLOCK
from wherry.oci import reference
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import Manifest
from wherry.oci.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, BinaryIO

    from wherry.client.content import Content
    from wherry.client.images import ImageManifest, Images


async def export(
    images: Images,
    content: Content,
    names: Sequence[str],
    destination: BinaryIO,
    *,
    platforms: Sequence[Platform | str] = (),
    all_platforms: bool = False,
    docker_manifest: bool = True,
    non_distributable: bool = True,
) -> None:
    """Write images to a file or a pipe.

    Of an image for several platforms, the blobs of those asked for (this machine's by default) are written, or of
    all, and its index as it is. `docker_manifest` is what Docker needs; layers that may not be distributed can be left
    out. NotFound for an image, a platform or a blob that is not there; then nothing has been
    written yet. OSError from the destination.
    """
    if not names:
        raise InvalidArgument("export: no image is named")
    suits = [each for platform in platforms or (None,) for each in Platform.of(platform).suits()]
    collected = _Collected(images, content, list(dict.fromkeys(suits)), all_platforms, non_distributable)
    for name in dict.fromkeys(names):
        await collected.add(name, descriptor_of(await images.get(name)))
    archive = _ArchiveWriter(destination)
    archive.directory("blobs/")
    for algorithm in sorted({digest.partition(":")[0] for digest in collected.blobs}):
        archive.directory(f"blobs/{algorithm}/")
    for digest, size in sorted(collected.blobs.items()):
        archive.begin("blobs/" + digest.replace(":", "/"), size, 0o444)
        async for piece in content.read(digest):
            archive.write(piece)
        archive.end()
    documents: list[tuple[str, Any, int]] = [("index.json", collected.index(), 0o644)]
    if docker_manifest:
        documents.append(("manifest.json", collected.docker_manifest(), 0o644))
    documents.append(("oci-layout", {"imageLayoutVersion": "1.0.0"}, 0o444))
    for name, document, mode in documents:
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        archive.begin(name, len(data), mode)
        archive.write(data)
        archive.end()
    archive.finish()


class _Collected:
    """The images to be written and the blobs they need."""

    def __init__(
        self, images: Images, content: Content, suits: list[Platform], all_platforms: bool, non_distributable: bool
    ) -> None:
        self._images = images
        self._content = content
        self._suits = suits
        self._all_platforms = all_platforms
        self._non_distributable = non_distributable
        self._seen: set[str] = set()
        self._targets: list[tuple[str, Descriptor]] = []
        #: Manifests that Docker is to load, with the images' names.
        self._loadable: dict[str, tuple[ImageManifest, list[str]]] = {}
        #: Digests and sizes.
        self.blobs: dict[str, int] = {}

    async def add(self, name: str, target: Descriptor) -> None:
        """Take an image with all that it needs."""
        chosen: list[ImageManifest] = []
        self._seen.clear()
        await self._walk(target, chosen, name)
        if not chosen:
            raise NotFound(f"image {name} for {self._suits[0]}")
        self._targets.append((name, target))
        ranked = sorted(chosen, key=self._rank)
        best = ranked[0]
        self._loadable.setdefault(best.manifest.descriptor.digest, (best, []))[1].append(name)

    def _rank(self, manifest: ImageManifest) -> int:
        return self._suits.index(manifest.platform) if manifest.platform in self._suits else len(self._suits)

    async def _walk(self, target: Descriptor, chosen: list[ImageManifest], name: str, depth: int = 0) -> None:
        if target.digest in self._seen:
            return
        self._seen.add(target.digest)
        check_depth(target, depth)
        document = await self._images.document(target)
        if isinstance(document, Manifest):
            manifest = await self._images.with_config(document)
            if self._all_platforms or manifest.platform in (None, *self._suits):
                for descriptor in (document.config, *document.layers):
                    if not self._non_distributable and _is_non_distributable(descriptor):
                        continue
                    await self._take(descriptor, name)
                await self._take(target, name)
                chosen.append(manifest)
            return
        before = len(chosen)
        for child in document.manifests:
            platform = Platform.from_json(child.platform) if child.platform else None
            if self._all_platforms or platform in (None, *self._suits):
                await self._walk(child, chosen, name, depth + 1)
        if len(chosen) > before:
            await self._take(target, name)

    async def _take(self, descriptor: Descriptor, name: str) -> None:
        if descriptor.digest not in self.blobs:
            try:
                info = await self._content.info(descriptor.digest)
            except NotFound:
                raise NotFound(f"blob {descriptor.digest} of image {name}") from None
            check_size("blob", descriptor, info.size)
            self.blobs[descriptor.digest] = info.size

    def index(self) -> dict[str, Any]:
        """Return the layout's index: each image under its name."""
        manifests = []
        for name, target in self._targets:
            annotations = {**target.annotations, IMAGE_NAME: name, REF_NAME: reference.tag(name)}
            manifests.append(Descriptor(target.media_type, target.digest, target.size, annotations).to_json())
        return {"schemaVersion": 2, "manifests": manifests}

    def docker_manifest(self) -> list[dict[str, Any]]:
        """Return what `docker load` reads: a manifest an image."""
        return [
            {
                "Config": _path(manifest.manifest.config),
                "RepoTags": list(_repo_tags(names)),
                "Layers": [_path(layer) for layer in manifest.manifest.layers],
            }
            for manifest, names in self._loadable.values()
        ]


def _is_non_distributable(descriptor: Descriptor) -> bool:
    return ".nondistributable." in descriptor.media_type or ".foreign." in descriptor.media_type


def _path(descriptor: Descriptor) -> str:
    return "blobs/" + descriptor.digest.replace(":", "/")


def _repo_tags(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        try:
            yield reference.familiar(name)
        except InvalidArgument:
            continue  # containerd's names are any strings, Docker's are not


class _ArchiveWriter:
    """Writes a tar archive of files that come in pieces."""

    def __init__(self, destination: BinaryIO) -> None:
        self._destination = destination
        self._writer = Writer(self._put)
        self._name = ""
        self._rest = 0
        self._padding = 0

    def directory(self, name: str) -> None:
        """Write a directory's header."""
        self._writer.add_directory(name.encode(), 0o755)

    def begin(self, name: str, size: int, mode: int) -> None:
        """Write the header of a file; `size` bytes are to follow."""
        self._writer.add_header(name.encode(), mode, size)
        self._name = name
        self._rest = size
        self._padding = -size % BLOCK

    def write(self, data: bytes) -> None:
        """Write bytes of the file that was begun."""
        self._rest -= len(data)
        if self._rest < 0:
            raise DataLoss(f"{self._name}: more bytes came than its size")
        self._put(data)

    def end(self) -> None:
        """End the file. DataLoss if not all of it was written."""
        if self._rest:
            raise DataLoss(f"{self._name}: {self._rest} bytes are missing")
        self._put(bytes(self._padding))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._writer.finish()
        self._destination.flush()

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._destination.write(rest) :]

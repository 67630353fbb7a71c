"""Images converted: between Docker's and OCI's media types, and from one compression of the layers to another.

An image's config names the digests of its uncompressed layers, so it stays as it is, and so does what is unpacked.
"""

from __future__ import annotations

import json
import os
import tempfile

from wherry.client.content import Content
from wherry.client.images import Images, check_depth, descriptor_of
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound
from wherry.images.compression import GZIP, NONE, ZSTD, CompressedLayer, decompressed, detect
from wherry.oci import digest as digests
from wherry.oci.descriptor import Descriptor as Descriptor
from wherry.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Index,
    Manifest,
    parse,
    parse_json,
    reference_labels,
)
from wherry.oci.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, BinaryIO

    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.client.client import Client

OCI = "oci"
DOCKER = "docker"
COMPRESSIONS = {"uncompressed": NONE, "gzip": GZIP, "zstd": ZSTD}

#: Layers' media types: kind (a layer or one not to be distributed) and compression, for OCI and for Docker.
_LAYERS = {
    ("layer", NONE): (OCI_LAYER, DOCKER_LAYER),
    ("layer", GZIP): (OCI_LAYER + "+gzip", DOCKER_LAYER_GZIP),
    ("layer", ZSTD): (OCI_LAYER + "+zstd", DOCKER_LAYER + ".zstd"),
    ("foreign", NONE): (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    ("foreign", GZIP): (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
    ("foreign", ZSTD): (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
    ),
}
_KIND_OF = {types[family]: (kind, family) for kind, types in _LAYERS.items() for family in (0, 1)}
_OTHERS = ((OCI_INDEX, DOCKER_INDEX), (OCI_MANIFEST, DOCKER_MANIFEST), (OCI_CONFIG, DOCKER_CONFIG))

#: What an attestation's entry in an index names: the manifest that it is about.
_ABOUT = "vnd.docker.reference.digest"

_UNCOMPRESSED = "containerd.io/uncompressed"
_PIECE = 1 << 20


class ConvertOptions:
    """What an image is to become."""

    __slots__ = ("all_platforms", "compression", "family", "on_layer", "platforms")

    def __init__(
        self,
        *,
        family: str = "",
        compression: str | None = None,
        platforms: Sequence[Platform | str] = (),
        all_platforms: bool = False,
        on_layer: Callable[[Descriptor], None] | None = None,
    ) -> None:
        #: OCI or DOCKER; "" leaves the media types.
        self.family = family
        #: The layers' (one of COMPRESSIONS' values); None leaves them as they are.
        self.compression = compression
        #: Which manifests of an index to take; this machine's, if none is given.
        self.platforms = [Platform.of(platform) for platform in platforms or (None,)]
        self.all_platforms = all_platforms
        #: Called before a layer is compressed anew.
        self.on_layer = on_layer or (lambda layer: None)


async def convert(client: Client, name: str, other: str, options: ConvertOptions) -> Image:
    """Make another image of one that is here and store it under another name, taking that from any image that has it.

    NotFound for an image, platform or blob that is not here; FailedPrecondition for a layer whose bytes are not what
    the image's config says. Layers are kept in temporary files meanwhile, one at a time.
    """
    if not options.family and options.compression is None:
        raise InvalidArgument("convert: say to what: a family of media types, a compression, or both")
    image = await client.images.get(name)
    async with client.leases.hold() as lease:
        content = Content(client.channel, client.namespace, lease.id)
        images = Images(client.channel, client.namespace, lease.id)
        target = await _Converter(images, content, lease.id, options).convert(descriptor_of(image))
        if target is None:
            wanted = ", ".join(map(str, options.platforms))
            raise NotFound(f"manifest of {name} for {wanted}")
        return await images.put(other, target, image.labels)


class _Converter:
    def __init__(self, images: Images, content: Content, unique: str, options: ConvertOptions) -> None:
        self._images = images
        self._content = content
        self._unique = unique
        self._options = options
        self._suits = [platform for wanted in options.platforms for platform in wanted.suits()]
        #: What layers have become.
        self._layers: dict[str, Descriptor] = {}
        self._converted: dict[str, Descriptor | None] = {}

    async def convert(self, descriptor: Descriptor, depth: int = 0) -> Descriptor | None:
        """Return what a manifest or index becomes; None if it is not for the platforms asked for."""
        if descriptor.digest not in self._converted:
            check_depth(descriptor, depth)
            document = await self._images.document(descriptor)
            if isinstance(document, Manifest):
                self._converted[descriptor.digest] = await self._manifest(document)
            else:
                self._converted[descriptor.digest] = await self._index(document, depth)
        return self._converted[descriptor.digest]

    async def _index(self, index: Index, depth: int) -> Descriptor | None:
        entries: list[Descriptor] = []
        for child in index.manifests:
            platform = Platform.from_json(child.platform) if child.platform else None
            if not self._options.all_platforms and platform is not None and platform not in self._suits:
                continue
            try:
                made = await self.convert(child, depth + 1)
            except NotFound:
                if self._options.all_platforms:
                    raise
                continue  # an entry of no platform, which was not brought here
            if made is not None:
                entries.append(Descriptor(made.media_type, made.digest, made.size, child.annotations, child.platform))
        if not entries:
            return None
        for entry in entries:
            about = self._converted.get(entry.annotations.get(_ABOUT, ""))
            if about is not None:
                entry.annotations[_ABOUT] = about.digest
        value = await self._json(index.descriptor)
        value["manifests"] = [entry.to_json() for entry in entries]
        return await self._write(index.descriptor, value)

    async def _manifest(self, manifest: Manifest) -> Descriptor | None:
        found = await self._images.with_config(manifest)
        if not self._options.all_platforms and found.platform not in (None, *self._suits):
            return None
        value = await self._json(manifest.descriptor)
        config = manifest.config
        config.media_type = self._media_type(config.media_type)
        value["config"] = {**value["config"], "mediaType": config.media_type}
        layers = []
        for number, layer in enumerate(manifest.layers):
            made = layer
            if layer.media_type in _KIND_OF:
                made = await self._layer(layer, found.diff_ids()[number])
            raw = value["layers"][number]
            layers.append({**raw, "mediaType": made.media_type, "digest": made.digest, "size": made.size})
        value["layers"] = layers
        return await self._write(manifest.descriptor, value)

    async def _json(self, descriptor: Descriptor) -> dict[str, Any]:
        return parse_json(await self._content.read_document(descriptor.digest), f"manifest {descriptor.digest}")

    async def _write(self, old: Descriptor, value: dict[str, Any]) -> Descriptor:
        media_type = self._media_type(old.media_type)
        value["mediaType"] = media_type
        document = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        new = Descriptor(media_type, digests.of(document), len(document), old.annotations, old.platform)
        await self._content.write(
            f"convert-{self._unique}-{new.digest}",
            [document],
            expected=new.digest,
            labels=reference_labels(parse(new, document)),
        )
        return new

    def _media_type(self, media_type: str) -> str:
        """Return a manifest's, index's or config's media type in the family asked for."""
        for oci, docker in _OTHERS:
            if media_type in (oci, docker):
                return {OCI: oci, DOCKER: docker}.get(self._options.family, media_type)
        return media_type

    async def _layer(self, layer: Descriptor, diff_id: str) -> Descriptor:
        (kind, compression), family = _KIND_OF[layer.media_type]
        family = {OCI: 0, DOCKER: 1}.get(self._options.family, family)
        wanted = compression if self._options.compression is None else self._options.compression
        media_type = _LAYERS[kind, wanted][family]
        if wanted == compression:
            await self._check_there(layer)
            return Descriptor(media_type, layer.digest, layer.size)
        if layer.digest not in self._layers:
            self._options.on_layer(layer)
            self._layers[layer.digest] = await self._compress(layer, diff_id, wanted)
        made = self._layers[layer.digest]
        return Descriptor(media_type, made.digest, made.size)

    async def _check_there(self, layer: Descriptor) -> None:
        try:
            await self._content.info(layer.digest)
        except NotFound:
            raise NotFound(f"layer {layer.digest}") from None

    async def _compress(self, layer: Descriptor, diff_id: str, compression: str) -> Descriptor:
        await self._check_there(layer)
        with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
            async for piece in self._content.read(layer.digest):
                old.write(piece)
            old.seek(0)
            head = old.read(16)
            old.seek(0)
            made = CompressedLayer(new.fileno(), compression)
            for piece in decompressed(_pieces(old), detect(head)):
                made.write(piece)
            made.finish()
            if made.uncompressed != diff_id:
                raise FailedPrecondition(
                    f"layer {layer.digest}: its tar is {made.uncompressed}, the image's config names {diff_id}"
                )
            new.seek(0)
            await self._content.write(
                f"convert-{made.digest}",
                _pieces(new),
                total=os.fstat(new.fileno()).st_size,
                expected=made.digest,
                labels={_UNCOMPRESSED: diff_id},
            )
            return Descriptor("", made.digest, made.size)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece

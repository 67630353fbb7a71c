"""Images: names of manifests, through a daemon's Images service; what they refer to, through its Content service."""

from __future__ import annotations

from wherry.api.services.images.v1 import images_pb2
from wherry.api.types import types_pb2
from wherry.api.wellknown_pb2 import FieldMask
from wherry.client.content import Content
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import (
    CONFIGS,
    DOCKER_LAYER,
    OCI_LAYER,
    Index,
    Manifest,
    chain_ids,
    diff_ids,
    parse,
    parse_json,
)
from wherry.oci.platform import Platform
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, BinaryIO

    from wherry.api.services.images.v1.images_pb2 import Image as Image
    from wherry.client.archive_import import ImportOptions
    from wherry.client.rootfs_image import RootfsOptions
    from wherry.rpc.channel import Channel


#: Indexes in indexes: an archive's in an image's is usual, more is not.
_MAX_DEPTH = 8


class ImageManifest:
    """An image's manifest for one platform, with its config."""

    __slots__ = ("config", "config_document", "manifest", "platform")

    def __init__(self, manifest: Manifest, config_document: bytes) -> None:
        self.manifest = manifest
        #: The config's bytes, and as JSON.
        self.config_document = config_document
        self.config: dict[str, Any] = parse_json(config_document, f"config {manifest.config.digest}")
        #: What the index, or else the config, names; None if neither names one.
        named = manifest.descriptor.platform
        self.platform = (Platform.from_json(named) if named else None) or Platform.from_json(self.config)

    def diff_ids(self) -> list[str]:
        """Return the digests of the layers' tars. InvalidArgument if the config is none of an image."""
        return diff_ids(self.config_document, self.manifest)


class ImageDescription:
    """An image, and the manifests of it that are there."""

    __slots__ = ("image", "manifests")

    def __init__(self, image: Image, manifests: list[ImageManifest]) -> None:
        self.image = image
        self.manifests = manifests

    @property
    def platforms(self) -> list[str]:
        """What the image is for, as far as its manifests are there and tell it."""
        return sorted({str(each.platform) for each in self.manifests if each.platform is not None})

    @property
    def size(self) -> int:
        """Bytes of the blobs of the manifests that are there, compressed as they are, each counted once."""
        blobs = {self.image.target.digest: self.image.target.size}
        for each in self.manifests:
            for descriptor in (each.manifest.descriptor, each.manifest.config, *each.manifest.layers):
                blobs[descriptor.digest] = descriptor.size
        return sum(blobs.values())

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        from wherry.client.documents import document

        return {**document(self.image), "manifests": [_manifest_document(each) for each in self.manifests]}


def _manifest_document(manifest: ImageManifest) -> dict[str, Any]:
    try:
        chains = list(chain_ids(manifest.diff_ids()))
    except InvalidArgument:
        chains = []  # an artifact: its layers make no root file system
    return {
        "platform": str(manifest.platform) if manifest.platform is not None else None,
        "descriptor": manifest.manifest.descriptor.to_json(),
        "config": {"descriptor": manifest.manifest.config.to_json(), "value": manifest.config},
        "layers": [layer.to_json() for layer in manifest.manifest.layers],
        "chain_id": chains[-1] if chains else None,
    }


class Images:
    """A namespace's images."""

    def __init__(self, channel: Channel, namespace: str, lease: str = "") -> None:
        self._channel = channel
        self._namespace = namespace
        self._stub = Stub(channel, images_pb2.DESCRIPTOR.services_by_name["Images"])
        self._metadata = metadata_for(namespace, lease)
        self._content = Content(channel, namespace, lease)

    async def get(self, name: str) -> Image:
        """Return an image by its exact name. NotFound if there is none."""
        response = await self._stub.get(images_pb2.GetImageRequest(name=name), metadata=self._metadata)
        image: Image = response.image
        return image

    async def find(self, name: str) -> Image:
        """Return an image by its exact name or, if there is none, as Docker would complete it. NotFound."""
        try:
            return await self.get(name)
        except NotFound as error:
            from wherry.oci.reference import normalize

            try:
                return await self.get(normalize(name))
            except (NotFound, InvalidArgument):
                raise error from None

    async def put(self, name: str, target: Descriptor, labels: Mapping[str, str] | None = None) -> Image:
        """Create an image, or let the one of this name refer to another target; that one's other labels stay."""
        image = images_pb2.Image(name=name, target=wire_descriptor(target), labels=labels)
        try:
            response = await self._stub.create(images_pb2.CreateImageRequest(image=image), metadata=self._metadata)
        except AlreadyExists:
            paths = ["target", *(f"labels.{key}" for key in image.labels)]
            request = images_pb2.UpdateImageRequest(image=image, update_mask=FieldMask(paths=paths))
            response = await self._stub.update(request, metadata=self._metadata)
        made: Image = response.image
        return made

    async def tag(self, name: str, other: str, *, force: bool = False) -> Image:
        """Give an image another name, with the same labels.

        NotFound if there is no image of the first name; AlreadyExists for the second, unless `force`.
        """
        image = await self.get(name)
        if force:
            return await self.put(other, descriptor_of(image), image.labels)
        made = images_pb2.Image(name=other, target=image.target, labels=image.labels)
        response = await self._stub.create(images_pb2.CreateImageRequest(image=made), metadata=self._metadata)
        created: Image = response.image
        return created

    async def delete(self, name: str, *, sync: bool = False) -> None:
        """Delete an image's name; with `sync`, return when what nothing else refers to has been collected."""
        await self._stub.delete(images_pb2.DeleteImageRequest(name=name, sync=sync), metadata=self._metadata)

    async def document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return the manifest or index that a descriptor refers to. NotFound if its blob is not there."""
        try:
            document = await self._content.read_document(descriptor.digest)
        except NotFound:
            raise NotFound(f"manifest {descriptor.digest}") from None
        check_size("manifest", descriptor, len(document))
        return parse(descriptor, document)

    async def with_config(self, manifest: Manifest) -> ImageManifest:
        """Return a manifest with its config. NotFound if that is not there."""
        try:
            return ImageManifest(manifest, await self._content.read_document(manifest.config.digest))
        except NotFound:
            raise NotFound(f"config {manifest.config.digest}") from None

    async def check_layers(self, manifest: ImageManifest) -> None:
        """Raise NotFound for a layer that is not there, FailedPrecondition for one of another size, or of another
        digest than the config names, as far as that can be told without unpacking it."""
        layers = manifest.manifest.layers
        for layer in layers:
            try:
                info = await self._content.info(layer.digest)
            except NotFound:
                raise NotFound(f"layer {layer.digest} of manifest {manifest.manifest.descriptor.digest}") from None
            check_size("layer", layer, info.size)
        if manifest.manifest.config.media_type not in CONFIGS:
            return  # an artifact, whose layers are anything
        for layer, diff_id in zip(layers, manifest.diff_ids(), strict=True):
            # Docker's archives have no digests of their layers; one that is not compressed can be checked all the same.
            if layer.media_type in (DOCKER_LAYER, OCI_LAYER) and layer.digest != diff_id:
                raise FailedPrecondition(f"layer {layer.digest}: the image's config names {diff_id}")

    async def check_complete(self, target: Descriptor, depth: int = 0) -> None:
        """Raise NotFound for the first manifest or blob of an image, for whichever platform, that is not there."""
        check_depth(target, depth)
        document = await self.document(target)
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                try:
                    await self._content.info(blob.digest)
                except NotFound:
                    raise NotFound(f"blob {blob.digest} of manifest {target.digest}") from None
            return
        for child in document.manifests:
            try:
                await self.check_complete(child, depth + 1)
            except NotFound as error:
                platform = Platform.from_json(child.platform) if child.platform else None
                raise NotFound(f"image for {platform}: {error.message}" if platform else error.message) from None

    async def manifests(self, target: Descriptor) -> list[ImageManifest]:
        """Return all of an image's manifests that are there, with their configs."""
        found: list[ImageManifest] = []
        await self._collect(target, found, set(), 0)
        return found

    async def _collect(self, target: Descriptor, found: list[ImageManifest], seen: set[str], depth: int) -> None:
        if target.digest in seen:
            return
        seen.add(target.digest)
        check_depth(target, depth)
        document = await self.document(target)
        if isinstance(document, Manifest):
            found.append(await self.with_config(document))
            return
        for each in document.manifests:
            try:
                await self._collect(each, found, seen, depth + 1)
            except (NotFound, InvalidArgument):
                continue  # of another platform, and not pulled; or an attestation, which is no image

    async def manifest(self, target: Descriptor, platform: Platform | str | None = None) -> ImageManifest:
        """Return the manifest, with its config, that suits a platform best: this machine's, if none is given.

        NotFound if the image is for others only, or what it refers to is not there.
        """
        wanted = Platform.of(platform)
        found: list[str] = []
        manifest = await self._best(target, wanted.suits(), found, set(), 0)
        if manifest is None:
            others = ", ".join(sorted(set(found))) or "no platform at all"
            raise NotFound(f"manifest for {wanted}: the image is for {others}")
        return manifest

    async def _best(
        self, target: Descriptor, suits: Sequence[Platform], found: list[str], seen: set[str], depth: int
    ) -> ImageManifest | None:
        if target.digest in seen:
            return None
        seen.add(target.digest)
        check_depth(target, depth)
        document = await self.document(target)
        if isinstance(document, Manifest):
            manifest = await self.with_config(document)
            if manifest.platform is None or manifest.platform in suits:
                return manifest
            found.append(str(manifest.platform))
            return None
        for descriptor in preferred(document.manifests, suits, found):
            manifest_or_none = await self._best(descriptor, suits, found, seen, depth + 1)
            if manifest_or_none is not None:
                return manifest_or_none
        return None

    async def unpack(
        self,
        image: Image,
        snapshotter: str = "",
        *,
        platform: Platform | str | None = None,
        on_layer: Callable[[Descriptor], None] | None = None,
    ) -> str:
        """Unpack an image's layers, those that are not, and return the topmost snapshot's name ("" without layers).

        `on_layer` is called before each layer that is applied. NotFound names what is missing; FailedPrecondition is
        raised for a layer whose bytes are not what the image's config says.
        """
        from wherry.client.leases import Leases
        from wherry.client.snapshots import Snapshots
        from wherry.client.unpack import Unpacker

        manifest = await self.manifest(descriptor_of(image), platform)
        async with Leases(self._channel, self._namespace).hold() as lease:
            unpacker = Unpacker(
                self._channel,
                self._namespace,
                lease,
                Content(self._channel, self._namespace, lease.id),
                Snapshots(self._channel, self._namespace, snapshotter, lease.id),
                on_layer,
            )
            return await unpacker.unpack(manifest.manifest, manifest.diff_ids())

    async def describe(self, image: Image) -> ImageDescription:
        """Return an image with all of its manifests that are there. NotFound if what it refers to is not."""
        return ImageDescription(image, await self.manifests(descriptor_of(image)))

    async def import_archive(self, source: BinaryIO | str, options: ImportOptions | None = None) -> list[Image]:
        """Import the images of an archive, unpack them, and return them. See `wherry.client.archive_import`."""
        from wherry.client.archive_import import ImportOptions, import_archive

        return await import_archive(self._channel, self._namespace, source, options or ImportOptions())

    async def import_rootfs(self, source: BinaryIO, name: str, options: RootfsOptions | None = None) -> Image:
        """Make an image of a root file system's tar. See `wherry.client.rootfs_image`."""
        from wherry.client.rootfs_image import RootfsOptions, import_rootfs

        return await import_rootfs(self._channel, self._namespace, source, name, options or RootfsOptions())

    async def export(
        self,
        names: Sequence[str],
        destination: BinaryIO,
        *,
        platform: Platform | str | None = None,
        all_platforms: bool = False,
    ) -> None:
        """Write images to an OCI archive, which Docker can load too. See `wherry.client.archive_export`."""
        from wherry.client.archive_export import export

        platforms = (platform,) if platform else ()
        await export(self, self._content, names, destination, platforms=platforms, all_platforms=all_platforms)

    async def list(self, filters: Iterable[str] = ()) -> list[Image]:
        """Return the images that match one of the filters; all of them if there is none."""
        request = images_pb2.ListImagesRequest(filters=filters)
        response = await self._stub.list(request, metadata=self._metadata)
        return list(response.images)


def full_name(name: str) -> str:
    """Return an image's name as Docker completes it: "alpine" is "docker.io/library/alpine:latest". InvalidArgument."""
    from wherry.oci.reference import normalize

    return normalize(name)


def preferred(descriptors: Sequence[Descriptor], suits: Sequence[Platform], found: list[str]) -> Iterable[Descriptor]:
    """Return an index's descriptors that suit a platform or do not name theirs, the best first; note the others'."""
    ranked: list[tuple[int, Descriptor]] = []
    for descriptor in descriptors:
        platform = Platform.from_json(descriptor.platform) if descriptor.platform else None
        if platform is None:
            ranked.append((len(suits), descriptor))
        elif platform in suits:
            ranked.append((suits.index(platform), descriptor))
        elif platform.os != "unknown":  # which is how attestations beside an image are marked
            found.append(str(platform))
    ranked.sort(key=lambda each: each[0])
    return [descriptor for _, descriptor in ranked]


def check_depth(index: Descriptor, depth: int) -> None:
    """Raise InvalidArgument for indexes in indexes beyond any reason."""
    if depth > _MAX_DEPTH:
        raise InvalidArgument(f"manifest {index.digest}: an index in more than {_MAX_DEPTH} others")


def check_size(what: str, descriptor: Descriptor, size: int) -> None:
    """Raise FailedPrecondition if a blob's size is another than its descriptor says."""
    if size != descriptor.size:
        raise FailedPrecondition(f"{what} {descriptor.digest}: {size} bytes, {descriptor.size} are expected")


def descriptor_of(image: Image) -> Descriptor:
    """Return what an image's name refers to."""
    target = image.target
    return Descriptor(target.media_type, target.digest, target.size, target.annotations)


def wire_descriptor(descriptor: Descriptor) -> types_pb2.Descriptor:
    """Return a descriptor as a message."""
    return types_pb2.Descriptor(
        media_type=descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        annotations=descriptor.annotations,
    )

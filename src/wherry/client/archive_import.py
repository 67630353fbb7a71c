"""Images imported from archives: OCI layouts, `docker save` archives, and what skopeo, umoci, podman and ctr write.

The archive is read once, each blob written as it passes, so a pipe will do. Everything happens under a lease: until the
last step, which is to give the images their names, whatever fails leaves nothing that the daemon would keep.
"""

from __future__ import annotations

import json
import posixpath
import time

from wherry.client.archive import DirectoryMembers, TarMembers
from wherry.client.content import MAX_DOCUMENT, Content
from wherry.client.images import Images, check_depth, check_size, preferred
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots
from wherry.client.unpack import Unpacker
from wherry.errors import Error, FailedPrecondition, InvalidArgument, NotFound, from_status
from wherry.images.compression import GZIP, ZSTD, detect
from wherry.images.tar import ArchiveError
from wherry.oci import digest as digests
from wherry.oci import reference
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import (
    CONFIGS,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
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
    from wherry.client.archive import Member, Members
    from wherry.client.images import ImageManifest
    from wherry.rpc.channel import Channel

#: The annotation of an index's descriptor that holds an image's whole name (containerd, `docker save`).
IMAGE_NAME = "io.containerd.image.name"
#: The one that holds a name or only a tag (OCI image specification, annotations.md).
REF_NAME = "org.opencontainers.image.ref.name"

_LAYOUT = "oci-layout"
_INDEX = "index.json"
_DOCKER = "manifest.json"
#: Members of Docker's archives that say again, in older forms, what manifest.json and the configs say.
_OLD_DOCKER = frozenset(("VERSION", "json"))
_OLD_DOCKER_TAGS = "repositories"
_LAYER_TYPES = {GZIP: DOCKER_LAYER_GZIP, ZSTD: OCI_LAYER + "+zstd"}


class ImportOptions:
    """What to import of an archive, how to name it, and what to do with it."""

    __slots__ = ("all_platforms", "base_name", "name", "on_step", "platform", "snapshotter", "unpack")

    def __init__(
        self,
        *,
        name: str = "",
        base_name: str = "",
        platform: Platform | str | None = None,
        all_platforms: bool = False,
        unpack: bool = True,
        snapshotter: str = "",
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        #: The name of the archive's one image, whatever the archive calls it.
        self.name = name
        #: What names that are only tags are put after; "import-" and the date, as containerd does, if none is given.
        self.base_name = base_name or default_base_name()
        #: Which manifests of an index to take: this machine's, if neither is given.
        self.platform = Platform.of(platform)
        self.all_platforms = all_platforms
        #: Whether, and by which snapshotter, to unpack the layers (of `platform` only).
        self.unpack = unpack
        self.snapshotter = snapshotter
        #: Called with one line about each step.
        self.on_step = on_step or (lambda line: None)


def default_base_name() -> str:
    """Return what names that are only tags are put after: as containerd does."""
    return time.strftime("import-%Y-%m-%d")


async def import_archive(
    channel: Channel, namespace: str, source: BinaryIO | str, options: ImportOptions
) -> list[Image]:
    """Import an archive: an open file (plain or compressed, also a pipe) or the path of an OCI layout's directory.

    Returns the images made. InvalidArgument for what is no image archive, or a damaged one; NotFound for a blob that is
    missing, and for images of other platforms only; FailedPrecondition for a digest or size that does not agree;
    ResourceExhausted for a full disk. Then there is no image, and no ingest or lease is left. Reads the source
    synchronously, in pieces of 1 MiB.
    """
    async with Leases(channel, namespace).hold() as lease:
        content = Content(channel, namespace, lease.id)
        images = Images(channel, namespace, lease.id)
        members: Members = DirectoryMembers(source) if isinstance(source, str) else TarMembers(source)
        archive = _Archive(content, lease.id, options.base_name, options.on_step)
        await archive.read(members)
        selection = _Selection(images, content, options)
        for target in await archive.targets():
            await selection.add(target)
        named = selection.named()
        if options.unpack:
            unpacker = Unpacker(
                channel,
                namespace,
                lease,
                content,
                Snapshots(channel, namespace, options.snapshotter, lease.id),
                lambda layer: options.on_step(f"unpack layer {layer.digest}"),
            )
            for manifest in selection.to_unpack():
                await unpacker.unpack(manifest.manifest, manifest.diff_ids())
        return [await images.put(name, target) for name, target in named]


class _Blob:
    """A member that was written to the content store."""

    __slots__ = ("compression", "digest", "size")

    def __init__(self, digest: str, size: int, compression: str) -> None:
        self.digest = digest
        self.size = size
        self.compression = compression


class _Archive:
    """An archive's members, its blobs in the content store, and the manifests that it names."""

    def __init__(self, content: Content, unique: str, base_name: str, on_step: Callable[[str], None]) -> None:
        self._content = content
        self._unique = unique
        self._base_name = base_name
        self._on_step = on_step
        self._blobs: dict[str, _Blob] = {}
        self._links: dict[str, str] = {}
        self._documents: dict[str, bytes] = {}

    async def read(self, members: Members) -> None:
        """Read the members and write the blobs."""
        begun = False
        try:
            for member in members:
                begun = True
                await self._take(member, members)
        except ArchiveError as error:
            if begun:
                raise
            raise InvalidArgument(f"not an image archive: {error.message}") from None

    async def _take(self, member: Member, members: Members) -> None:
        if member.link:
            self._links[member.name] = member.link
        elif member.name in (_LAYOUT, _INDEX, _DOCKER):
            if member.size > MAX_DOCUMENT:
                raise InvalidArgument(f"{member.name}: {member.size} bytes, and more than {MAX_DOCUMENT} are not read")
            self._documents[member.name] = b"".join(members.pieces())
        elif not _is_redundant(member.name):
            await self._write(member.name, member.size, members.pieces())

    async def _write(self, name: str, size: int, pieces: Iterator[bytes]) -> None:
        digest = _digest_of(name)
        if not digest and _LAYOUT in self._documents:
            return  # an OCI layout has its blobs below blobs/ only
        first = next(pieces, b"")
        # Its digest is told from an OCI blob's name. A ref of that can be resumed by the next try, or be shared with
        # another import; Docker's layers may be called layer.tar in every archive.
        ref = f"import-{digest}" if digest else f"import-{self._unique}-{name}"
        try:
            written = await self._content.write(ref, _chain(first, pieces), total=size, expected=digest)
        except Error as error:
            raise from_status(error.code, f"blob {name}: {error.message}") from None
        self._on_step(f"blob {written}")
        self._blobs[name] = _Blob(written, size, detect(first))

    async def targets(self) -> list[tuple[list[str], Descriptor]]:
        """Return what the archive gives names to, with those names."""
        if _LAYOUT in self._documents:
            return self._oci_targets()
        if _DOCKER in self._documents:
            return await self._docker_targets()
        if any(posixpath.basename(name) in (_LAYOUT, _DOCKER) for name in (*self._blobs, *self._links)):
            raise InvalidArgument("not an image archive: its files are not at its top")
        raise InvalidArgument(
            "not an image archive: it has neither an oci-layout nor a manifest.json; a root file system is to be "
            "imported as one"
        )

    def _oci_targets(self) -> list[tuple[list[str], Descriptor]]:
        version = parse_json(self._documents[_LAYOUT], _LAYOUT).get("imageLayoutVersion")
        if version != "1.0.0":
            raise InvalidArgument(f"{_LAYOUT}: image layout version {version!r} is not supported")
        if _INDEX not in self._documents:
            raise NotFound(f"{_INDEX} of the OCI layout")
        document = self._documents[_INDEX]
        index = parse(Descriptor(OCI_INDEX, digests.of(document), len(document)), document, _INDEX)
        if not isinstance(index, Index):
            raise InvalidArgument(f"{_INDEX}: not an image index")
        targets = []
        for descriptor in index.manifests:
            name = descriptor.annotations.get(IMAGE_NAME) or self._whole(descriptor.annotations.get(REF_NAME))
            targets.append(([name] if name else [], descriptor))
        return targets

    def _whole(self, name: str | None) -> str | None:
        if not name or any(character in name for character in "/:@"):
            return name
        return f"{self._base_name}:{name}"

    async def _docker_targets(self) -> list[tuple[list[str], Descriptor]]:
        try:
            entries = json.loads(self._documents[_DOCKER])
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"{_DOCKER}: not JSON: {error}") from None
        if not isinstance(entries, list):
            raise InvalidArgument(f"{_DOCKER}: not a JSON list")
        return [await self._docker_target(entry) for entry in entries]

    async def _docker_target(self, entry: Any) -> tuple[list[str], Descriptor]:
        """Make the manifest that a Docker archive does not have, byte for byte as containerd makes it."""
        if not isinstance(entry, dict):
            raise InvalidArgument(f"{_DOCKER}: an entry is not an object")
        config = self._blob(entry.get("Config"), "config")
        layers = _strings(entry.get("Layers"), "Layers")
        tags = _strings(entry.get("RepoTags"), "RepoTags")
        document = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": Descriptor(DOCKER_CONFIG, config.digest, config.size).to_json(),
                "layers": [self._docker_layer(layer).to_json() for layer in layers],
            },
            separators=(",", ":"),
        ).encode()
        names = [reference.normalize(tag) for tag in tags]
        digest = digests.of(document)
        target = Descriptor(DOCKER_MANIFEST, digest, len(document))
        if names:
            target.annotations = {IMAGE_NAME: names[0], REF_NAME: reference.tag(names[0])}
        manifest = parse(target, document)
        await self._content.write(
            f"import-{self._unique}-{digest}", [document], expected=digest, labels=reference_labels(manifest)
        )
        return names, target

    def _docker_layer(self, path: str) -> Descriptor:
        blob = self._blob(path, "layer")
        return Descriptor(_LAYER_TYPES.get(blob.compression, DOCKER_LAYER), blob.digest, blob.size)

    def _blob(self, path: Any, what: str) -> _Blob:
        if not isinstance(path, str):
            raise InvalidArgument(f"{_DOCKER}: the {what} is missing or no string")
        name = posixpath.normpath(path)
        for _ in range(len(self._links) + 1):
            if name in self._blobs:
                return self._blobs[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise NotFound(f"{what} {path} in the archive")


class _Selection:
    """The images of an archive that are to be made: walked, checked to be complete, their references labelled."""

    def __init__(self, images: Images, content: Content, options: ImportOptions) -> None:
        self._images = images
        self._content = content
        self._options = options
        self._suits = options.platform.suits()
        self._targets: list[tuple[list[str], Descriptor]] = []
        self._manifests: dict[str, ImageManifest] = {}
        self._seen: dict[str, bool] = {}
        self._others: list[str] = []

    async def add(self, target: tuple[list[str], Descriptor]) -> None:
        """Take one of the archive's images, if there is one for the platform in it."""
        names, descriptor = target
        if await self._keep(descriptor):
            self._targets.append((names, descriptor))
        else:
            name = names[0] if names else descriptor.digest
            self._options.on_step(f"skip {name}: not for {self._options.platform}")

    async def _keep(self, descriptor: Descriptor, depth: int = 0) -> bool:
        """Label a manifest or index, if it is wanted, and what it refers to. Each is looked at once: indexes may refer
        to one another in as many ways as they like."""
        if descriptor.digest not in self._seen:
            check_depth(descriptor, depth)
            self._seen[descriptor.digest] = await self._keep_unseen(descriptor, depth)
        return self._seen[descriptor.digest]

    async def _keep_unseen(self, descriptor: Descriptor, depth: int) -> bool:
        document = await self._images.document(descriptor)
        if isinstance(document, Manifest):
            return await self._keep_manifest(document)
        children = document.manifests
        if not self._options.all_platforms:
            children = list(preferred(children, self._suits, self._others))
        kept = [child for child in children if await self._keep(child, depth + 1)]
        if kept:
            await self._content.update_labels(descriptor.digest, reference_labels(Index(descriptor, kept)))
        return bool(kept)

    async def _keep_manifest(self, document: Manifest) -> bool:
        manifest = await self._images.with_config(document)
        if not self._options.all_platforms and manifest.platform not in (None, *self._suits):
            self._others.append(str(manifest.platform))
            return False
        await self._check_layers(manifest)
        await self._content.update_labels(document.descriptor.digest, reference_labels(document))
        self._manifests[document.descriptor.digest] = manifest
        return True

    async def _check_layers(self, manifest: ImageManifest) -> None:
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

    def named(self) -> list[tuple[str, Descriptor]]:
        """Return the images to make. Raises NotFound or InvalidArgument if there are none, or no names for them."""
        if not self._targets:
            if self._others:
                others = ", ".join(sorted(set(self._others)))
                raise NotFound(f"image for {self._options.platform} in the archive: it is for {others}")
            raise InvalidArgument("the archive has no image")
        if self._options.name:
            if len(self._targets) > 1:
                raise InvalidArgument(f"the archive has {len(self._targets)} images: one name is not enough for them")
            return [(self._options.name, self._targets[0][1])]
        named = [(name, target) for names, target in self._targets for name in names]
        if not named:
            raise InvalidArgument("the archive names none of its images: give a name")
        return named

    def to_unpack(self) -> Sequence[ImageManifest]:
        """Return the manifests of the platform asked for."""
        return [each for each in self._manifests.values() if each.platform is None or each.platform in self._suits]


def _digest_of(name: str) -> str:
    """Return the digest that an OCI layout's blob is named after; "" for other members."""
    directory, _, encoded = name.rpartition("/")
    if not directory.startswith("blobs/") or "/" in directory[6:]:
        return ""
    digest = f"{directory[6:]}:{encoded}"
    try:
        digests.validate(digest)
    except InvalidArgument as error:
        raise InvalidArgument(f"blob {name}: {error.message}") from None
    return digest


def _is_redundant(name: str) -> bool:
    return name == _OLD_DOCKER_TAGS or posixpath.basename(name) in _OLD_DOCKER


def _strings(value: Any, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidArgument(f"{_DOCKER}: {what} is not a list of strings")
    return value


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest

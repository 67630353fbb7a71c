"""What image archives hold: OCI layouts, `docker save` archives, and what skopeo, umoci, podman and ctr write.

An archive is read once, each blob written to the content store as it passes, so a pipe will do.
"""

from __future__ import annotations

import json
import posixpath

from wherry.client.archive import pieces
from wherry.client.content import MAX_DOCUMENT, Content
from wherry.errors import Error, InvalidArgument, NotFound, from_status
from wherry.images.compression import GZIP, ZSTD, CompressedLayer, detect
from wherry.images.tar import ArchiveError
from wherry.oci import digest as digests
from wherry.oci import reference
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
    Index,
    parse,
    parse_json,
    reference_labels,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wherry.client.archive import Member, Members

#: The annotation of an index's descriptor that holds an image's whole name (containerd, `docker save`).
IMAGE_NAME = "io.containerd.image.name"
#: The one that holds a name or only a tag (OCI image specification, annotations.md).
REF_NAME = "org.opencontainers.image.ref.name"

_UNCOMPRESSED = "containerd.io/uncompressed"
_LAYOUT = "oci-layout"
_INDEX = "index.json"
_DOCKER = "manifest.json"
#: Members of Docker's archives that say again, in older forms, what manifest.json and the configs say.
_OLD_DOCKER = frozenset(("VERSION", "json"))
_OLD_DOCKER_TAGS = "repositories"
_LAYER_TYPES = {GZIP: DOCKER_LAYER_GZIP, ZSTD: OCI_LAYER + "+zstd"}


class _Blob:
    """A member that was written to the content store."""

    __slots__ = ("compression", "digest", "size")

    def __init__(self, digest: str, size: int, compression: str) -> None:
        self.digest = digest
        self.size = size
        self.compression = compression


class ArchiveReader:
    """An archive's members, its blobs in the content store, and the manifests that it names."""

    def __init__(
        self,
        content: Content,
        unique: str,
        base_name: str,
        on_step: Callable[[str], None],
        *,
        compress: bool = False,
    ) -> None:
        """`unique` keeps ingests of several archives apart; names that are only tags are put after `base_name`.

        With `compress` the layers of a Docker archive that are not compressed are stored so; an OCI archive's manifests
        say what its layers are.
        """
        self._content = content
        self._unique = unique
        self._base_name = base_name
        self._on_step = on_step
        self._compress = compress
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
                "layers": [(await self._docker_layer(layer)).to_json() for layer in layers],
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

    async def _docker_layer(self, path: str) -> Descriptor:
        blob = self._blob(path, "layer")
        if self._compress and not blob.compression:
            blob = await self._compressed(blob)
        return Descriptor(_LAYER_TYPES.get(blob.compression, DOCKER_LAYER), blob.digest, blob.size)

    async def _compressed(self, blob: _Blob) -> _Blob:
        """Write a layer once more, compressed; the other is nobody's when the import ends."""
        import tempfile

        with tempfile.TemporaryFile() as file:
            layer = CompressedLayer(file.fileno(), GZIP)
            async for piece in self._content.read(blob.digest):
                layer.write(piece)
            layer.finish()
            file.seek(0)
            await self._content.write(
                f"import-{layer.digest}",
                pieces(file),
                total=layer.size,
                expected=layer.digest,
                labels={_UNCOMPRESSED: layer.uncompressed},
            )
        return _Blob(layer.digest, layer.size, GZIP)

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

"""Manifests and indexes: OCI image specification, manifest.md and image-index.md; Docker's schema 2 of both.

What refers to what, and the chain ids of layers. Documents come in as bytes and are checked; nothing is fetched here.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.oci import digest as digests
from wherry.oci import json_text
from wherry.oci.descriptor import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset((OCI_INDEX, DOCKER_INDEX))
MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
CONFIGS = frozenset((OCI_CONFIG, DOCKER_CONFIG))
_SCHEMA_1 = frozenset(
    (
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    )
)


def parse_json(document: bytes, where: str) -> dict[str, Any]:
    """Return a JSON object. InvalidArgument, naming `where` it stands, if it is none."""
    try:
        value = json_text.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{where}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}: not a JSON object")
    return value


class Manifest:
    """An image's config and layers, the lowest first."""

    __slots__ = ("config", "descriptor", "layers")

    def __init__(self, descriptor: Descriptor, config: Descriptor, layers: list[Descriptor]) -> None:
        self.descriptor = descriptor
        self.config = config
        self.layers = layers


class Index:
    """Manifests (and further indexes), mostly one a platform."""

    __slots__ = ("descriptor", "manifests")

    def __init__(self, descriptor: Descriptor, manifests: list[Descriptor]) -> None:
        self.descriptor = descriptor
        self.manifests = manifests


def parse(descriptor: Descriptor, document: bytes, where: str = "") -> Manifest | Index:
    """Return the manifest or index that a descriptor refers to; `where` is what errors call it.

    InvalidArgument if it is none, if it is of Docker's schema 1, or if it could be read as both (CVE-2021-41190).
    """
    where = where or f"manifest {descriptor.digest}"
    value = parse_json(document, where)
    if descriptor.media_type in _SCHEMA_1 or value.get("schemaVersion") == 1:
        raise InvalidArgument(f"{where}: Docker's image format of schema 1, which is not supported: convert the image")
    has_manifests = "manifests" in value
    if has_manifests and ("config" in value or "layers" in value):
        raise InvalidArgument(f"{where}: both an index and a manifest")
    media_type = value.get("mediaType") or descriptor.media_type
    if (descriptor.media_type or media_type) != media_type:
        raise InvalidArgument(f"{where}: referred to as {descriptor.media_type}, but its mediaType is {media_type}")
    if has_manifests and media_type not in MANIFESTS:
        return Index(descriptor, _descriptors(value["manifests"], where))
    if "config" in value and media_type not in INDEXES:
        config = Descriptor.from_json(value["config"], where)
        return Manifest(descriptor, config, _descriptors(value.get("layers") or [], where))
    raise InvalidArgument(f"{where}: neither an image index nor an image manifest ({media_type or 'no media type'})")


def _descriptors(value: Any, where: str) -> list[Descriptor]:
    if not isinstance(value, list):
        raise InvalidArgument(f"{where}: a list of descriptors is not a list")
    return [Descriptor.from_json(each, where) for each in value]


def reference_labels(document: Manifest | Index) -> dict[str, str]:
    """Return the labels that a manifest's or index's blob needs, so that the daemon keeps what it refers to."""
    if isinstance(document, Index):
        return {f"containerd.io/gc.ref.content.m.{n}": each.digest for n, each in enumerate(document.manifests)}
    labels = {f"containerd.io/gc.ref.content.l.{n}": each.digest for n, each in enumerate(document.layers)}
    labels["containerd.io/gc.ref.content.config"] = document.config.digest
    return labels


def diff_ids(config: bytes, manifest: Manifest) -> list[str]:
    """Return the digests of the layers' uncompressed tars, from an image's config.

    InvalidArgument if the config is none of an image, or its layers are not as many as the manifest's.
    """
    where = f"config {manifest.config.digest}"
    rootfs = parse_json(config, where).get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if found is None and not manifest.layers:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidArgument(f"{where}: no list of diff_ids: not an image's config")
    if len(found) != len(manifest.layers):
        raise InvalidArgument(f"{where}: {len(found)} diff_ids for the manifest's {len(manifest.layers)} layers")
    for each in found:
        digests.validate(each)
    return found


def chain_ids(diffs: list[str]) -> Iterator[str]:
    """Yield the name of each layer with all below it (OCI image specification, config.md, "Layer ChainID")."""
    chain = ""
    for diff in diffs:
        chain = digests.of(f"{chain} {diff}".encode()) if chain else diff
        yield chain

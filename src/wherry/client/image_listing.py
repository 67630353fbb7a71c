"""What many images are made of, for a listing: sizes and platforms of thousands within a moment.

To ask the daemon for each manifest and config takes two calls an image, and a fifth of a millisecond each. But both
daemons keep blobs as files named by their digests, tell where, and never change one; who may read there (root, on the
daemon's own machine) reads the same bytes as the daemon would send. Where that is not so, and for every document with
anything unusual about it, the daemon is asked, and `Images.describe` says what it means.

Namespaces share those files. Which of an index's manifests are there is part of what is shown, so with more than one
namespace the daemon is asked about those whose files are. An image whose own manifest only another namespace has is
shown with what that one is made of.
"""

from __future__ import annotations

import os

from wherry.client.namespaces import Namespaces
from wherry.client.server import plugins
from wherry.errors import Error, NotFound
from wherry.oci import json_text
from wherry.oci.manifest import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from wherry.oci.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wherry.client.client import Client
    from wherry.client.images import Image, Images

#: Bytes of a document that is read from its file: manifests and configs have a few thousand.
_MAX = 1 << 20


class Summary:
    """An image's size, and the platforms that it is for, as `ImageDescription` has them."""

    __slots__ = ("platforms", "size")

    def __init__(self, size: int, platforms: list[str]) -> None:
        self.size = size
        self.platforms = platforms


class _Unusual(Exception):
    """A document that is missing, or not as nearly all are."""


async def summaries(client: Client, images: Iterable[Image]) -> list[Summary | None]:
    """Return what each image is made of; None if some of it is missing or no image."""
    store = await _Store.find(client)
    asked = client.images
    found: dict[tuple[str, str, int], Summary | None] = {}
    result = []
    for image in images:
        target = image.target
        key = target.digest, target.media_type, target.size
        if key not in found:
            found[key] = await _summary(store, asked, image)
        result.append(found[key])
    return result


async def _summary(store: _Store | None, images: Images, image: Image) -> Summary | None:
    if store is not None:
        try:
            return await store.summary(image)
        except _Unusual:
            pass  # the daemon is asked, and knows what it means
    try:
        described = await images.describe(image)
    except Error:
        return None
    return Summary(described.size, described.platforms)


class _Store:
    """A daemon's content store as files."""

    def __init__(self, client: Client, blobs: str, *, shared: bool) -> None:
        self._content = client.content
        self._prefix = blobs + "/"
        self._shared = shared
        #: The platform in a config, "" for none, by what stands there: there are few.
        self._platforms: dict[tuple[Any, Any, Any], str] = {}

    @classmethod
    async def find(cls, client: Client) -> _Store | None:
        """Return the daemon's store, if it can be read here; None otherwise."""
        try:
            found = await plugins(client, ["type==io.containerd.content.v1,id==content"])
            namespaces = await Namespaces(client).list()
        except Error:
            return None
        root = found[0].exports.get("root", "") if found else ""
        blobs = f"{root}/blobs/sha256"
        if not root.startswith("/") or not os.access(blobs, os.R_OK | os.X_OK):
            return None
        return cls(client, blobs, shared=len(namespaces) > 1)

    async def summary(self, image: Image) -> Summary:
        """Return what an image is made of. _Unusual if that is not plain."""
        target = image.target
        blobs = {target.digest: target.size}
        platforms: set[str] = set()
        try:
            document = self._read(target.digest, target.size)
            if "manifests" not in document:
                self._add_manifest(document, target.media_type, None, blobs, platforms)
            else:
                await self._add_index(document, target.media_type, blobs, platforms)
        except (OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise _Unusual from None
        for size in blobs.values():
            if type(size) is not int or size < 0:
                raise _Unusual
        return Summary(sum(blobs.values()), sorted(platforms))

    async def _add_index(
        self, document: dict[str, Any], media_type: str, blobs: dict[str, int], platforms: set[str]
    ) -> None:
        if "config" in document or "layers" in document or media_type not in (OCI_INDEX, DOCKER_INDEX):
            raise _Unusual
        if document.get("mediaType", media_type) != media_type:
            raise _Unusual
        for each in document["manifests"]:
            digest, size = each["digest"], each["size"]
            if each["mediaType"] not in (OCI_MANIFEST, DOCKER_MANIFEST):
                raise _Unusual
            try:
                manifest = self._read(digest, size)
            except FileNotFoundError:
                continue  # of another platform, and not pulled
            if self._shared and not await self._has(digest):
                continue
            blobs[digest] = size
            self._add_manifest(manifest, each["mediaType"], each.get("platform"), blobs, platforms)

    def _add_manifest(
        self, manifest: dict[str, Any], media_type: str, named: Any, blobs: dict[str, int], platforms: set[str]
    ) -> None:
        if manifest.get("mediaType", media_type) != media_type or media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
            raise _Unusual
        config = manifest["config"]
        document = self._read(config["digest"], config["size"])
        blobs[config["digest"]] = config["size"]
        for layer in manifest["layers"]:
            blobs[layer["digest"]] = layer["size"]
        platform = (self._platform(named) if named else "") or self._platform(document)
        if platform:
            platforms.add(platform)

    def _platform(self, value: dict[str, Any]) -> str:
        key = value.get("os"), value.get("architecture"), value.get("variant")
        found = self._platforms.get(key)
        if found is None:
            platform = Platform.from_json(value)
            found = self._platforms[key] = "" if platform is None else str(platform)
        return found

    def _read(self, digest: str, size: int) -> dict[str, Any]:
        """Return a blob that is a JSON object. FileNotFoundError for none; _Unusual for what is not, or too long."""
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or len(name) != 64 or "/" in name:
            raise _Unusual
        fd = os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, min(size, _MAX) + 1)  # no more room than that: to get and give back much takes longest
        finally:
            os.close(fd)
        if len(data) != size:
            raise _Unusual
        document = json_text.loads(data)
        if type(document) is not dict or document.get("schemaVersion") == 1:
            raise _Unusual
        return document

    async def _has(self, digest: str) -> bool:
        try:
            await self._content.info(digest)
        except NotFound:
            return False
        return True

"""Descriptors: what refers to a blob. OCI image specification, descriptor.md."""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.oci import digest as digests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


class Descriptor:
    """A blob's media type, digest and size, and what its referrer says of it."""

    __slots__ = ("annotations", "artifact_type", "digest", "media_type", "platform", "size", "urls")

    def __init__(
        self,
        media_type: str,
        digest: str,
        size: int,
        annotations: Mapping[str, str] | None = None,
        platform: dict[str, Any] | None = None,
        urls: Sequence[str] = (),
        artifact_type: str = "",
    ) -> None:
        self.media_type = media_type
        self.digest = digest
        self.size = size
        self.annotations = dict(annotations or {})
        #: The JSON object, in an index, of the platform that the manifest is for.
        self.platform = platform
        #: Where else the blob can be had.
        self.urls = tuple(urls)
        #: What a manifest that is no image says it is.
        self.artifact_type = artifact_type

    @classmethod
    def from_json(cls, value: Any, where: str) -> Descriptor:
        """Return the descriptor of a JSON object. InvalidArgument, naming `where` it stands, if it is none."""
        if not isinstance(value, dict):
            raise InvalidArgument(f"{where}: a descriptor is not an object")
        media_type = value.get("mediaType", "")
        digest = value.get("digest")
        size = value.get("size")
        annotations = value.get("annotations") or {}
        platform = value.get("platform")
        urls = value.get("urls") or []
        artifact_type = value.get("artifactType", "")
        if not isinstance(media_type, str) or not isinstance(digest, str):
            raise InvalidArgument(f"{where}: a descriptor's mediaType or digest is missing or no string")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidArgument(f"{where}: the size of {digest} is missing or no number of bytes")
        if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
            raise InvalidArgument(f"{where}: the annotations of {digest} are no strings")
        if platform is not None and not isinstance(platform, dict):
            raise InvalidArgument(f"{where}: the platform of {digest} is not an object")
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise InvalidArgument(f"{where}: the urls of {digest} are no strings")
        if not isinstance(artifact_type, str):
            raise InvalidArgument(f"{where}: the artifactType of {digest} is no string")
        try:
            digests.validate(digest)
        except InvalidArgument as error:
            raise InvalidArgument(f"{where}: {error.message}") from None
        return cls(media_type, digest, size, annotations, platform, urls, artifact_type)

    def annotated(self, annotations: Mapping[str, str]) -> Descriptor:
        """Return the same with other annotations."""
        return Descriptor(self.media_type, self.digest, self.size, annotations, self.platform)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, its members in the order in which Go writes them."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations.items()))
        if self.platform is not None:
            value["platform"] = self.platform
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value

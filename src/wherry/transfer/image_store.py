"""The image store as a transfer's source or destination: names, platforms, what to unpack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wherry.client.archive_reader import IMAGE_NAME, REF_NAME
from wherry.client.images import Images
from wherry.errors import InvalidArgument, NotFound, Unimplemented
from wherry.oci.descriptor import Descriptor
from wherry.oci.platform import Platform
from wherry.transfer.selection import Selection


class Reference:
    """A further name of an image, or what names that are only tags are put after."""

    __slots__ = ("add_digest", "allow_overwrite", "is_prefix", "name", "skip_named_digest")

    def __init__(
        self,
        name: str,
        *,
        is_prefix: bool = False,
        allow_overwrite: bool = False,
        add_digest: bool = False,
        skip_named_digest: bool = False,
    ) -> None:
        self.name = name
        self.is_prefix = is_prefix
        #: Whether whole names that an archive gives may be others than those below the prefix.
        self.allow_overwrite = allow_overwrite
        #: Whether there is also to be a name with the digest; not for images that have another, if the last says so.
        self.add_digest = add_digest
        self.skip_named_digest = skip_named_digest


class ImageStore:
    """What a client says of images in the store (containerd.types.transfer.ImageStore)."""

    def __init__(
        self,
        name: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        selection: Selection | None = None,
        all_metadata: bool = False,
        references: Sequence[Reference] = (),
        unpacks: Sequence[tuple[Platform, str]] = (),
    ) -> None:
        """`unpacks` are platforms with the snapshotters to unpack them by ("": the default)."""
        self.name = name
        self.labels = dict(labels or {})
        self.selection = selection or Selection()
        #: Whether manifests and configs of platforms that are not selected are wanted as well.
        self.all_metadata = all_metadata
        self.references = list(references)
        self.unpacks = list(unpacks)

    @classmethod
    def from_message(cls, message: Any) -> ImageStore:
        """Return what a message says. InvalidArgument for a platform that is none."""
        return cls(
            message.name,
            labels=message.labels,
            selection=Selection([platform_from(each) for each in message.platforms], message.manifest_limit),
            all_metadata=message.all_metadata,
            references=[
                Reference(
                    each.name,
                    is_prefix=each.is_prefix,
                    allow_overwrite=each.allow_overwrite,
                    add_digest=each.add_digest,
                    skip_named_digest=each.skip_named_digest,
                )
                for each in message.extra_references
            ],
            unpacks=[
                (platform_from(each.platform) if each.HasField("platform") else Platform.host(), each.snapshotter)
                for each in message.unpacks
            ],
        )

    def __str__(self) -> str:
        return f"Local Image Store ({self.name})"

    def names(self, target: Descriptor) -> list[str]:
        """Return what an image is to be called."""
        names = [self.name] if self.name else []
        for each in self.references:
            if not each.is_prefix:
                names.append(f"{each.name}@{target.digest}" if each.add_digest else each.name)
        return names

    def names_of_imported(self, target: Descriptor) -> list[str]:
        """Return what an archive's image is to be called: by its annotations and the prefixes that were given."""
        names = []
        for each in self.references:
            if not each.is_prefix:
                continue
            name = _annotated(target.annotations, each)
            if name:
                names.append(name)
            if each.add_digest and not (name and each.skip_named_digest):
                names.append(f"{each.name}@{target.digest}")
        return names

    def lookups(self) -> list[str]:
        """Return the names of the images that are meant. Unimplemented for a prefix, InvalidArgument for none."""
        if any(each.is_prefix for each in self.references):
            raise Unimplemented("images cannot be looked up by a prefix")
        names = [*([self.name] if self.name else []), *(each.name for each in self.references)]
        if not names:
            raise InvalidArgument("no image is named")
        return names

    async def save(self, images: Images, target: Descriptor, names: Sequence[str]) -> list[Any]:
        """Give an image names, old ones included, which then refer to it. NotFound without any."""
        if not names:
            raise NotFound("image name")
        return [await images.put(name, target, self.labels) for name in names]


def platform_from(message: Any) -> Platform:
    """Return the platform of a message. InvalidArgument if it names no architecture or system."""
    if not message.os or not message.architecture:
        raise InvalidArgument(f"platform {message.os}/{message.architecture}: os and architecture are needed")
    return Platform(message.os, message.architecture, message.variant)


def _annotated(annotations: Mapping[str, str], prefix: Reference) -> str:
    """Return the name that an index of an archive gives an image; "" if it is none of those wanted."""
    whole = annotations.get(IMAGE_NAME, "")
    if whole:
        return whole if prefix.allow_overwrite or _is_below(whole, prefix.name) else ""
    name = annotations.get(REF_NAME, "")
    if not name:
        return ""
    if any(character in name for character in "/:@"):
        return name if prefix.allow_overwrite or _is_below(name, prefix.name) else ""
    return f"{prefix.name}:{name}"


def _is_below(name: str, prefix: str) -> bool:
    return name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in (":", "@", "/", "")

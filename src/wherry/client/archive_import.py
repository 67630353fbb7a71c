"""Images imported from archives: OCI layouts, `docker save` archives, and what skopeo, umoci, podman and ctr write.

The archive is read once, each blob written as it passes, so a pipe will do. Everything happens under a lease: until the
last step, which is to give the images their names, whatever fails leaves nothing that the daemon would keep.
"""

from __future__ import annotations

import time

from wherry.client.archive import DirectoryMembers, TarMembers
from wherry.client.archive_reader import ArchiveReader
from wherry.client.content import Content
from wherry.client.images import Images, check_depth, preferred
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots
from wherry.client.unpack import Unpacker
from wherry.errors import InvalidArgument, NotFound
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import Index, Manifest, reference_labels
from wherry.oci.platform import Platform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO

    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.client.archive import Members
    from wherry.client.images import ImageManifest
    from wherry.rpc.channel import Channel


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
        archive = ArchiveReader(content, lease.id, options.base_name, options.on_step)
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
        await self._images.check_layers(manifest)
        await self._content.update_labels(document.descriptor.digest, reference_labels(document))
        self._manifests[document.descriptor.digest] = manifest
        return True

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

"""Layers unpacked: each applied onto the one below it as a snapshot that its chain id names."""

from __future__ import annotations

import time
from binascii import b2a_base64
from os import urandom

from wherry.api.services.diff.v1 import diff_pb2
from wherry.api.types import types_pb2
from wherry.errors import AlreadyExists, Error, FailedPrecondition, NotFound, from_status
from wherry.oci.manifest import chain_ids
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.client.content import Content
    from wherry.client.leases import Lease
    from wherry.client.snapshots import Snapshots
    from wherry.oci.descriptor import Descriptor
    from wherry.oci.manifest import Manifest
    from wherry.rpc.channel import Channel

_SNAPSHOT_REF = "containerd.io/snapshot.ref"
_UNCOMPRESSED = "containerd.io/uncompressed"
_ATTEMPTS = 10


class Unpacker:
    """Unpacks images of a namespace into one snapshotter, under a lease."""

    def __init__(
        self,
        channel: Channel,
        namespace: str,
        lease: Lease,
        content: Content,
        snapshots: Snapshots,
        on_layer: Callable[[Descriptor], None] | None = None,
    ) -> None:
        """`on_layer` is called before a layer is applied."""
        self._diff = Stub(channel, diff_pb2.DESCRIPTOR.services_by_name["Diff"])
        self._metadata = metadata_for(namespace, lease.id)
        self._lease = lease
        self._content = content
        self._snapshots = snapshots
        self._on_layer = on_layer

    async def unpack(self, manifest: Manifest, diff_ids: list[str]) -> str:
        """Make the snapshots that are not there yet and return the name of the topmost; "" for an image of no layers.

        NotFound names a layer that is missing, FailedPrecondition one whose bytes are not those that the config names.
        """
        chains = list(chain_ids(diff_ids))
        if not chains:
            return ""
        # Snapshots that an earlier image left may be collected at any moment, unless the lease holds the topmost.
        complete = await self._exists(chains[-1])
        if complete:
            await self._lease.add(f"snapshots/{self._snapshots.snapshotter}", chains[-1])
            complete = await self._exists(chains[-1])
        if not complete:
            parent = ""
            for layer, diff_id, chain_id in zip(manifest.layers, diff_ids, chains, strict=True):
                if not await self._exists(chain_id):
                    await self._unpack_layer(layer, diff_id, chain_id, parent)
                parent = chain_id
        # Without this the collection would take the snapshots when the lease ends.
        label = f"containerd.io/gc.ref.snapshot.{self._snapshots.snapshotter}"
        await self._content.update_labels(manifest.config.digest, {label: chains[-1]})
        return chains[-1]

    async def _exists(self, key: str) -> bool:
        try:
            await self._snapshots.stat(key)
        except NotFound:
            return False
        return True

    async def _unpack_layer(self, layer: Descriptor, diff_id: str, chain_id: str, parent: str) -> None:
        for _ in range(_ATTEMPTS):
            # Go's form. The letters keep two unpackers of one layer apart.
            unique = f"{time.time_ns() % 1_000_000_000}-{_letters()}"
            key = f"extract-{unique} {chain_id}"
            labels = {_SNAPSHOT_REF: chain_id}
            try:
                mounts = await self._snapshots.prepare(key, parent, labels)
                break
            except AlreadyExists:
                # A snapshotter that fetches layers itself says so; or another client was first.
                if await self._exists(chain_id):
                    return
        else:
            raise FailedPrecondition(f"unpack layer {layer.digest}: no key for its snapshot is free")
        try:
            await self._apply(layer, diff_id, mounts)
            await self._snapshots.commit(chain_id, key, labels)
        except AlreadyExists:
            await self._remove(key)  # another client unpacked the same layer meanwhile
        except BaseException:
            await self._remove(key)
            raise
        await self._content.update_labels(layer.digest, {_UNCOMPRESSED: diff_id})

    async def _apply(self, layer: Descriptor, diff_id: str, mounts: list[types_pb2.Mount]) -> None:
        if self._on_layer is not None:
            self._on_layer(layer)
        request = diff_pb2.ApplyRequest(
            diff=types_pb2.Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size),
            mounts=mounts,
        )
        try:
            applied = (await self._diff.apply(request, metadata=self._metadata)).applied
        except Error as error:
            raise from_status(error.code, f"unpack layer {layer.digest}: {error.message}") from None
        if applied.digest != diff_id:
            raise FailedPrecondition(
                f"unpack layer {layer.digest}: its tar is {applied.digest}, the image's config names {diff_id}"
            )

    async def _remove(self, key: str) -> None:
        try:
            await self._snapshots.remove(key)
        except Error:
            pass  # what led here is the thing to tell; without the lease the daemon collects it


def _letters() -> str:
    """Return four letters by chance, of base64's for file names."""
    return b2a_base64(urandom(3), newline=False).decode().translate({ord("+"): "-", ord("/"): "_"})

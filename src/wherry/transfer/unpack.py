"""An image's layers unpacked side by side.

Each layer of a snapshotter that can rebase is prepared without a parent and extracted as soon as its blob is there;
they are committed from the bottom up, each onto the one below it. With other snapshotters a layer waits for its parent.
"""

from __future__ import annotations

import asyncio
import time
from binascii import b2a_base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from os import urandom
from typing import TYPE_CHECKING

from wherry.api.services.diff.v1 import diff_pb2
from wherry.api.services.introspection.v1 import introspection_pb2
from wherry.api.types import types_pb2
from wherry.client.content import Content
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots
from wherry.errors import AlreadyExists, Error, FailedPrecondition, NotFound, from_status
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import chain_ids
from wherry.rpc.channel import Stub
from wherry.rpc.context import FOLLOW, metadata_for
from wherry.transfer.failures import first
from wherry.transfer.locks import Locks
from wherry.transfer.progress import Progress

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel

_SNAPSHOT_REF = "containerd.io/snapshot.ref"
_UNCOMPRESSED = "containerd.io/uncompressed"
#: Layers of one image that are on their way at a time; what waits costs memory.
_AHEAD = 32
_SNAPSHOTTERS = "io.containerd.snapshotter.v1"
#: What snapshotters that can do it say; erofs says so to those alone who show it what a layer removes, as we do.
_REBASE = frozenset(("rebase", "wherry/rebase"))

#: Waits until a layer's blob is there, or raises why it will not be.
Ready = Callable[[Descriptor], Awaitable[None]]
#: Waits until a layer's blob is being written to this process's own content store, which says true, or is there.
MayBeFollowed = Callable[[Descriptor], Awaitable[bool]]


class Unpacker:
    """Unpacks images of a namespace into one snapshotter, under a lease."""

    def __init__(
        self,
        channel: Channel,
        namespace: str,
        lease: str,
        snapshotter: str,
        *,
        locks: Locks,
        slots: asyncio.Semaphore,
        progress: Progress,
        labels: Mapping[str, str],
    ) -> None:
        """`slots` bounds how many layers are extracted at a time; `labels` are put on snapshots that are not ready."""
        self._channel = channel
        self._diff = Stub(channel, diff_pb2.DESCRIPTOR.services_by_name["Diff"])
        self._metadata = metadata_for(namespace, lease)
        self._namespace = namespace
        self._lease = lease
        self._leases = Leases(channel, namespace)
        self._content = Content(channel, namespace, lease)
        self._snapshots = Snapshots(channel, namespace, snapshotter, lease)
        self._locks = locks
        self._slots = slots
        self._progress = progress
        self._labels = labels

    async def unpack(
        self,
        config: Descriptor,
        layers: Sequence[Descriptor],
        diff_ids: list[str],
        ready: Ready,
        may_be_followed: MayBeFollowed | None = None,
    ) -> str:
        """Make the snapshots that are not there yet and return the topmost's name; "" for an image of no layers.

        `ready` is awaited for each layer before it is extracted; with `may_be_followed`, where the daemon is in this
        process, a layer is extracted while it is fetched, and committed after that. FailedPrecondition for a layer
        whose bytes are not those that the config names; nothing that is not committed is left.
        """
        chains = list(chain_ids(diff_ids))
        if not chains:
            return ""
        if not await self._holds(chains[-1]):
            rebase = len(chains) > 1 and await self._can_rebase()
            await self._unpack_all(layers, diff_ids, chains, _Blobs(ready, may_be_followed), rebase=rebase)
        # Without this the collection would take the snapshots when the lease ends.
        label = f"containerd.io/gc.ref.snapshot.{self._snapshots.snapshotter}"
        await self._content.update_labels(config.digest, {label: chains[-1]})
        return chains[-1]

    async def _unpack_all(
        self, layers: Sequence[Descriptor], diff_ids: list[str], chains: list[str], blobs: _Blobs, *, rebase: bool
    ) -> None:
        below: asyncio.Event | None = None
        # Begun from the bottom up, so that those which are waited for are among them.
        begun = asyncio.Semaphore(_AHEAD)
        try:
            async with asyncio.TaskGroup() as tasks:
                for index, (layer, diff_id) in enumerate(zip(layers, diff_ids, strict=True)):
                    parent = chains[index - 1] if index else ""
                    step = _Layer(layer, diff_id, chains[index], parent, below, rebase=rebase and bool(index))
                    await begun.acquire()
                    task = tasks.create_task(self._unpack_layer(step, blobs))
                    task.add_done_callback(lambda _task: begun.release())
                    below = step.committed
        except BaseExceptionGroup as group:
            raise first(group) from None

    async def _can_rebase(self) -> bool:
        """Ask whether the snapshotter takes a parent at commit."""
        stub = Stub(self._channel, introspection_pb2.DESCRIPTOR.services_by_name["Introspection"])
        filters = [f"type=={_SNAPSHOTTERS},id=={self._snapshots.snapshotter}"]
        request = introspection_pb2.PluginsRequest(filters=filters)
        response = await stub.plugins(request, metadata=self._metadata)
        return any(_REBASE & set(plugin.capabilities) for plugin in response.plugins)

    async def _holds(self, chain: str) -> bool:
        """Tell whether a snapshot is there, and have the lease hold it: it may be collected at any moment else."""
        if not await self._exists(chain):
            return False
        await self._leases.add(self._lease, f"snapshots/{self._snapshots.snapshotter}", chain)
        return await self._exists(chain)

    async def _exists(self, key: str) -> bool:
        try:
            await self._snapshots.stat(key)
        except NotFound:
            return False
        return True

    async def _unpack_layer(self, step: _Layer, blobs: _Blobs) -> None:
        # Whoever has a layer's lock waits only for layers below it: no two wait for each other.
        async with self._locks.hold("snapshot", self._namespace, self._snapshots.snapshotter, step.chain):
            if await self._holds(step.chain):
                self._progress.done("already exists", step.layer)
            else:
                await self._make(step, blobs)
        step.committed.set()
        await blobs.ready(step.layer)
        await self._content.update_labels(step.layer.digest, {_UNCOMPRESSED: step.diff_id})

    async def _make(self, step: _Layer, blobs: _Blobs) -> None:
        if not step.rebase:
            await step.parent_committed()
        key = f"extract-{time.time_ns() % 1_000_000_000}-{_letters()} {step.chain}"
        labels = {**self._labels, _SNAPSHOT_REF: step.chain}
        try:
            try:
                mounts = await self._snapshots.prepare(key, "" if step.rebase else step.parent, labels)
            except AlreadyExists:
                return  # a snapshotter that fetches layers itself has it
            await self._extract(step, _as_upper(mounts) if step.rebase else mounts, blobs)
            self._progress.done("extracted", step.layer)
            await step.parent_committed()
            labels = {
                _SNAPSHOT_REF: step.chain,
                "containerd.io/snapshot/diff-id": step.diff_id,
                "containerd.io/snapshot/parent-chain-id": step.parent,
            }
            await self._snapshots.commit(step.chain, key, labels, parent=step.parent if step.rebase else "")
        except AlreadyExists:
            await self._remove(key)  # another client unpacked the same layer meanwhile
        except BaseException:
            await self._remove(key)
            raise

    async def _extract(self, step: _Layer, mounts: list[types_pb2.Mount], blobs: _Blobs) -> None:
        if blobs.may_be_followed is not None and await blobs.may_be_followed(step.layer):
            # Without a slot: there are no more of these than are fetched at a time, and they wait most of it.
            self._progress.done("extracting", step.layer)
            try:
                await self._apply(step, mounts, follow=True)
                await blobs.ready(step.layer)
                return
            except NotFound:
                pass  # it was complete a moment ago, or came from another namespace
        await blobs.ready(step.layer)
        async with self._slots:
            self._progress.done("extracting", step.layer)
            await self._apply(step, mounts)

    async def _apply(self, step: _Layer, mounts: list[types_pb2.Mount], *, follow: bool = False) -> None:
        layer = step.layer
        metadata = [*self._metadata, (FOLLOW, "1")] if follow else self._metadata
        request = diff_pb2.ApplyRequest(
            diff=types_pb2.Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size),
            mounts=mounts,
        )
        try:
            applied = (await self._diff.apply(request, metadata=metadata)).applied
        except Error as error:
            raise from_status(error.code, f"unpack layer {layer.digest}: {error.message}") from None
        if applied.digest != step.diff_id:
            raise FailedPrecondition(
                f"unpack layer {layer.digest}: its tar is {applied.digest}, the image's config names {step.diff_id}"
            )

    async def _remove(self, key: str) -> None:
        removal = asyncio.ensure_future(self._snapshots.remove(key))
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError:
            await asyncio.wait([removal])
            raise
        except Error:
            pass  # what led here is the thing to tell; the daemon takes it when it starts, or the lease ends


class _Blobs:
    """How the layers' blobs come."""

    def __init__(self, ready: Ready, may_be_followed: MayBeFollowed | None) -> None:
        self.ready = ready
        self.may_be_followed = may_be_followed


class _Layer:
    """One layer on its way."""

    def __init__(
        self, layer: Descriptor, diff_id: str, chain: str, parent: str, below: asyncio.Event | None, *, rebase: bool
    ) -> None:
        self.layer = layer
        self.diff_id = diff_id
        self.chain = chain
        self.parent = parent
        self.rebase = rebase
        self.committed = asyncio.Event()
        self._below = below

    async def parent_committed(self) -> None:
        """Wait until the layer below is a committed snapshot."""
        if self._below is not None:
            await self._below.wait()


def _as_upper(mounts: list[types_pb2.Mount]) -> list[types_pb2.Mount]:
    """Return the bind of a snapshot without a parent as the upper directory of an overlay that has one: what a layer
    removes is to be written down there in overlayfs' way."""
    if len(mounts) != 1 or mounts[0].type != "bind":
        return mounts
    options = [option for option in mounts[0].options if option not in ("rbind", "bind")]
    return [types_pb2.Mount(type="overlay", source="overlay", options=[*options, f"upperdir={mounts[0].source}"])]


def _letters() -> str:
    """Return four letters by chance, of base64's for file names."""
    return b2a_base64(urandom(3), newline=False).decode().translate({ord("+"): "-", ord("/"): "_"})

"""containerd.services.snapshots.v1.Snapshots."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wherry.api import typeurl
from wherry.api.events import events_pb2 as events
from wherry.api.services.snapshots.v1 import snapshots_pb2 as api
from wherry.api.types.types_pb2 import Mount as MountMessage
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import InvalidArgument
from wherry.rpc.service import Service
from wherry.store.snapshots import Info, Snapshotter

if TYPE_CHECKING:
    from wherry.daemon.collector import Collector
    from wherry.daemon.exchange import Exchange
    from wherry.linux.mount import Mount
    from wherry.rpc.context import CallContext

#: Snapshots in one message of List.
_PER_MESSAGE = 100


class SnapshotsService(Service):
    """Snapshots of every snapshotter, by its name."""

    descriptor = api.DESCRIPTOR.services_by_name["Snapshots"]

    def __init__(self, snapshotters: Mapping[str, Snapshotter], exchange: Exchange, collector: Collector) -> None:
        self._snapshotters = snapshotters
        self._exchange = exchange
        self._collector = collector

    def _snapshotter(self, name: str) -> Snapshotter:
        if not name:
            raise InvalidArgument("snapshotter argument missing")
        try:
            return self._snapshotters[name]
        except KeyError:
            raise InvalidArgument(f"snapshotter not loaded: {name}") from None

    async def prepare(self, request: Any, context: CallContext) -> api.PrepareSnapshotResponse:
        snapshotter = self._snapshotter(request.snapshotter)
        mounts = await snapshotter.prepare(
            context.namespace, request.key, request.parent, dict(request.labels), context.lease
        )
        event = events.SnapshotPrepare(key=request.key, parent=request.parent, snapshotter=snapshotter.name)
        self._exchange.publish(context.namespace, "/snapshot/prepare", event)
        return api.PrepareSnapshotResponse(mounts=_mount_messages(mounts))

    async def view(self, request: Any, context: CallContext) -> api.ViewSnapshotResponse:
        mounts = await self._snapshotter(request.snapshotter).view(
            context.namespace, request.key, request.parent, dict(request.labels), context.lease
        )
        return api.ViewSnapshotResponse(mounts=_mount_messages(mounts))

    async def mounts(self, request: Any, context: CallContext) -> api.MountsResponse:
        mounts = await self._snapshotter(request.snapshotter).mounts(context.namespace, request.key)
        return api.MountsResponse(mounts=_mount_messages(mounts))

    async def commit(self, request: Any, context: CallContext) -> Empty:
        snapshotter = self._snapshotter(request.snapshotter)
        await snapshotter.commit(
            context.namespace, request.name, request.key, dict(request.labels), context.lease, request.parent
        )
        event = events.SnapshotCommit(key=request.key, name=request.name, snapshotter=snapshotter.name)
        self._exchange.publish(context.namespace, "/snapshot/commit", event)
        return Empty()

    async def remove(self, request: Any, context: CallContext) -> Empty:
        snapshotter = self._snapshotter(request.snapshotter)
        await snapshotter.remove(context.namespace, request.key, context.lease)
        event = events.SnapshotRemove(key=request.key, snapshotter=snapshotter.name)
        self._exchange.publish(context.namespace, "/snapshot/remove", event)
        self._collector.deleted()
        return Empty()

    async def stat(self, request: Any, context: CallContext) -> api.StatSnapshotResponse:
        info = self._snapshotter(request.snapshotter).stat(context.namespace, request.key)
        return api.StatSnapshotResponse(info=_to_message(info))

    async def update(self, request: Any, context: CallContext) -> api.UpdateSnapshotResponse:
        changed = await self._snapshotter(request.snapshotter).update(
            context.namespace, request.info.name, dict(request.info.labels), request.update_mask.paths
        )
        return api.UpdateSnapshotResponse(info=_to_message(changed))

    async def list(self, request: Any, context: CallContext) -> AsyncIterator[api.ListSnapshotsResponse]:
        waiting: list[api.Info] = []
        for page in self._snapshotter(request.snapshotter).pages(context.namespace, request.filters):
            waiting += map(_to_message, page)
            if len(waiting) >= _PER_MESSAGE:
                yield api.ListSnapshotsResponse(info=waiting[:_PER_MESSAGE])
                del waiting[:_PER_MESSAGE]
        if waiting:
            yield api.ListSnapshotsResponse(info=waiting)

    async def usage(self, request: Any, context: CallContext) -> api.UsageResponse:
        usage = await self._snapshotter(request.snapshotter).usage(context.namespace, request.key)
        return api.UsageResponse(size=usage.size, inodes=usage.inodes)

    async def cleanup(self, request: Any, context: CallContext) -> Empty:
        await self._snapshotter(request.snapshotter).collect()
        return Empty()


def _mount_messages(mounts: Iterable[Mount]) -> list[MountMessage]:
    return [
        MountMessage(type=mount.type, source=mount.source, target=mount.target, options=mount.options)
        for mount in mounts
    ]


def _to_message(info: Info) -> api.Info:
    return api.Info(
        name=info.key,
        parent=info.parent,
        kind=info.kind.name,
        created_at=typeurl.timestamp(info.created_at),
        updated_at=typeurl.timestamp(info.updated_at),
        labels=info.labels,
    )

"""containerd.services.mounts.v1.Mounts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from wherry.api import typeurl
from wherry.api.services.mounts.v1 import mounts_pb2 as api
from wherry.api.types import types_pb2
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.mounts.manager import MountManager
from wherry.linux.mount import Mount
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.mounts import Activation, MountStore


class MountsService(Service):
    """Mounts that the daemon makes for its clients."""

    descriptor = api.DESCRIPTOR.services_by_name["Mounts"]

    def __init__(self, manager: MountManager, store: MountStore) -> None:
        self._manager = manager
        self._store = store

    async def activate(self, request: Any, context: CallContext) -> api.ActivateResponse:
        mounts = [Mount(each.type, each.source, each.options, each.target) for each in request.mounts]
        activation = await self._manager.activate(
            context.namespace,
            request.name,
            mounts,
            labels=dict(request.labels),
            temporary=request.temporary,
            lease=context.lease,
        )
        return api.ActivateResponse(info=to_message(activation))

    async def deactivate(self, request: Any, context: CallContext) -> Empty:
        await self._manager.deactivate(context.namespace, request.name)
        return Empty()

    async def info(self, request: Any, context: CallContext) -> api.InfoResponse:
        return api.InfoResponse(info=to_message(self._store.get(context.namespace, request.name)))

    async def update(self, request: Any, context: CallContext) -> api.UpdateResponse:
        changed = await self._store.update(
            context.namespace, request.info.name, dict(request.info.labels), request.update_mask.paths
        )
        return api.UpdateResponse(info=to_message(changed))

    async def list(self, request: Any, context: CallContext) -> AsyncIterator[api.ListMessage]:
        for activation in self._store.list(context.namespace, request.filters):
            yield api.ListMessage(info=to_message(activation))


def to_message(activation: Activation) -> types_pb2.ActivationInfo:
    """Return an activation's message."""
    return types_pb2.ActivationInfo(
        name=activation.name,
        active=[
            types_pb2.ActiveMount(
                mount=_mount(each.mount),
                mounted_at=typeurl.timestamp(each.mounted_at),
                mount_point=each.mount_point,
                data=each.data,
            )
            for each in activation.active
        ],
        system=[_mount(each) for each in activation.system],
        labels=activation.labels,
    )


def _mount(mount: Mount) -> types_pb2.Mount:
    return types_pb2.Mount(type=mount.type, source=mount.source, target=mount.target, options=mount.options)

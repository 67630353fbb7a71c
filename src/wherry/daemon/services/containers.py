"""containerd.services.containers.v1.Containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.services.containers.v1 import containers_pb2 as api
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.collector import Collector
from wherry.daemon.exchange import Exchange
from wherry.daemon.services import packed
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.containers import Container, ContainerStore


class ContainersService(Service):
    """Containers' records. Whether a task runs is not asked here: clients do."""

    descriptor = api.DESCRIPTOR.services_by_name["Containers"]

    def __init__(self, store: ContainerStore, exchange: Exchange, collector: Collector) -> None:
        self._store = store
        self._exchange = exchange
        self._collector = collector

    async def get(self, request: Any, context: CallContext) -> api.GetContainerResponse:
        return api.GetContainerResponse(container=to_message(self._store.get(context.namespace, request.id)))

    async def list(self, request: Any, context: CallContext) -> api.ListContainersResponse:
        found = self._store.list(context.namespace, request.filters)
        return api.ListContainersResponse(containers=[to_message(container) for container in found])

    async def list_stream(self, request: Any, context: CallContext) -> AsyncIterator[api.ListContainerMessage]:
        for container in self._store.list(context.namespace, request.filters):
            yield api.ListContainerMessage(container=to_message(container))

    async def create(self, request: Any, context: CallContext) -> api.CreateContainerResponse:
        made = await self._store.create(context.namespace, from_message(request.container))
        runtime = events_pb2.ContainerCreate.Runtime(
            name=made.runtime_name, options=packed.message(made.runtime_options)
        )
        event = events_pb2.ContainerCreate(id=made.id, image=made.image, runtime=runtime)
        self._exchange.publish(context.namespace, "/containers/create", event)
        return api.CreateContainerResponse(container=to_message(made))

    async def update(self, request: Any, context: CallContext) -> api.UpdateContainerResponse:
        changed = await self._store.update(
            context.namespace, from_message(request.container), request.update_mask.paths
        )
        event = events_pb2.ContainerUpdate(
            id=changed.id, image=changed.image, labels=changed.labels, snapshot_key=changed.snapshot_key
        )
        self._exchange.publish(context.namespace, "/containers/update", event)
        return api.UpdateContainerResponse(container=to_message(changed))

    async def delete(self, request: Any, context: CallContext) -> Empty:
        await self._store.delete(context.namespace, request.id)
        self._exchange.publish(context.namespace, "/containers/delete", events_pb2.ContainerDelete(id=request.id))
        self._collector.deleted()
        return Empty()


def to_message(container: Container) -> api.Container:
    """Return a container's message."""
    return api.Container(
        id=container.id,
        labels=container.labels,
        image=container.image,
        runtime=api.Container.Runtime(name=container.runtime_name, options=packed.message(container.runtime_options)),
        spec=packed.message(container.spec),
        snapshotter=container.snapshotter,
        snapshot_key=container.snapshot_key,
        created_at=typeurl.timestamp(container.created_at),
        updated_at=typeurl.timestamp(container.updated_at),
        extensions=packed.messages(container.extensions),
        sandbox=container.sandbox,
    )


def from_message(message: Any) -> Container:
    """Return what a message says of a container; its times are the server's own matter."""
    return Container(
        id=message.id,
        labels=dict(message.labels),
        image=message.image,
        runtime_name=message.runtime.name,
        runtime_options=packed.field(message.runtime, "options"),
        spec=packed.field(message, "spec"),
        snapshotter=message.snapshotter,
        snapshot_key=message.snapshot_key,
        extensions={key: (value.type_url, value.value) for key, value in message.extensions.items()},
        sandbox=message.sandbox,
    )

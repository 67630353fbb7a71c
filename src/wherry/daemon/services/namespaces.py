"""containerd.services.namespaces.v1.Namespaces."""

from __future__ import annotations

from typing import Any

from wherry.api.events import events_pb2
from wherry.api.services.namespaces.v1 import namespaces_pb2 as api
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.exchange import Exchange
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.namespaces import NamespaceStore


class NamespacesService(Service):
    """Namespaces; no call needs one of its own."""

    descriptor = api.DESCRIPTOR.services_by_name["Namespaces"]

    def __init__(self, store: NamespaceStore, exchange: Exchange) -> None:
        self._store = store
        self._exchange = exchange

    async def get(self, request: Any, context: CallContext) -> api.GetNamespaceResponse:
        labels = self._store.labels(request.name)
        return api.GetNamespaceResponse(namespace=api.Namespace(name=request.name, labels=labels))

    async def list(self, request: Any, context: CallContext) -> api.ListNamespacesResponse:
        found = [api.Namespace(name=name, labels=labels) for name, labels in self._store.list()]
        return api.ListNamespacesResponse(namespaces=found)

    async def create(self, request: Any, context: CallContext) -> api.CreateNamespaceResponse:
        namespace = request.namespace
        await self._store.create(namespace.name, namespace.labels)
        event = events_pb2.NamespaceCreate(name=namespace.name, labels=namespace.labels)
        self._exchange.publish(_filed_under(namespace.name, context), "/namespaces/create", event)
        return api.CreateNamespaceResponse(namespace=namespace)

    async def update(self, request: Any, context: CallContext) -> api.UpdateNamespaceResponse:
        namespace = request.namespace
        labels = await self._store.update(namespace.name, namespace.labels, request.update_mask.paths)
        event = events_pb2.NamespaceUpdate(name=namespace.name, labels=namespace.labels)
        self._exchange.publish(_filed_under(namespace.name, context), "/namespaces/update", event)
        return api.UpdateNamespaceResponse(namespace=api.Namespace(name=namespace.name, labels=labels))

    async def delete(self, request: Any, context: CallContext) -> Empty:
        await self._store.delete(request.name)
        self._exchange.publish(request.name, "/namespaces/delete", events_pb2.NamespaceDelete(name=request.name))
        return Empty()


def _filed_under(name: str, context: CallContext) -> str:
    """Return the namespace of an event: the caller's, as in containerd 1.x; the one it is about if there is none."""
    return context.namespace_or_empty or name

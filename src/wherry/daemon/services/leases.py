"""containerd.services.leases.v1.Leases."""

from __future__ import annotations

from typing import Any

from wherry.api import typeurl
from wherry.api.services.leases.v1 import leases_pb2 as api
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.collector import Collector
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.leases import Lease, LeaseStore


class LeasesService(Service):
    """Leases and what they hold."""

    descriptor = api.DESCRIPTOR.services_by_name["Leases"]

    def __init__(self, store: LeaseStore, collector: Collector) -> None:
        self._store = store
        self._collector = collector

    async def create(self, request: Any, context: CallContext) -> api.CreateResponse:
        lease = await self._store.create(context.namespace, request.id, request.labels)
        return api.CreateResponse(lease=_to_message(lease))

    async def delete(self, request: Any, context: CallContext) -> Empty:
        await self._store.delete(context.namespace, request.id)
        if request.sync:
            await self._collector.collect()
        else:
            self._collector.deleted()
        return Empty()

    async def list(self, request: Any, context: CallContext) -> api.ListResponse:
        found = self._store.list(context.namespace, request.filters)
        return api.ListResponse(leases=[_to_message(lease) for lease in found])

    async def add_resource(self, request: Any, context: CallContext) -> Empty:
        await self._store.add_resource(context.namespace, request.id, request.resource.type, request.resource.id)
        return Empty()

    async def delete_resource(self, request: Any, context: CallContext) -> Empty:
        await self._store.delete_resource(context.namespace, request.id, request.resource.type, request.resource.id)
        self._collector.deleted()
        return Empty()

    async def list_resources(self, request: Any, context: CallContext) -> api.ListResourcesResponse:
        found = self._store.resources(context.namespace, request.id)
        return api.ListResourcesResponse(resources=[api.Resource(id=id, type=type) for type, id in found])


def _to_message(lease: Lease) -> api.Lease:
    return api.Lease(id=lease.id, labels=lease.labels, created_at=typeurl.timestamp(lease.created_at))

"""containerd.services.events.v1.Events, and the Events service that shims call over ttrpc."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from wherry.api.services.events.ttrpc.v1 import events_pb2 as ttrpc_api
from wherry.api.services.events.v1 import events_pb2 as api
from wherry.api.types.types_pb2 import Envelope
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.exchange import Exchange
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service


class EventsService(Service):
    """Events of all namespaces; only Publish needs the caller's."""

    descriptor = api.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def publish(self, request: Any, context: CallContext) -> Empty:
        self._exchange.publish_any(context.namespace, request.topic, request.event)
        return Empty()

    async def forward(self, request: Any, context: CallContext) -> Empty:
        self._exchange.forward(request.envelope)
        return Empty()

    async def subscribe(self, request: Any, context: CallContext) -> AsyncIterator[Envelope]:
        async for envelope in self._exchange.subscribe(request.filters):
            yield envelope


class TtrpcEventsService(Service):
    """The shims' way in."""

    descriptor = ttrpc_api.DESCRIPTOR.services_by_name["Events"]

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def forward(self, request: Any, context: CallContext) -> Empty:
        self._exchange.forward(request.envelope)
        return Empty()

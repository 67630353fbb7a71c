"""containerd.services.sandbox.v1.Store."""

from __future__ import annotations

from typing import Any

from wherry.api import typeurl
from wherry.api.services.sandbox.v1 import sandbox_pb2 as api
from wherry.api.types import types_pb2
from wherry.daemon.services import packed
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.sandboxes import Sandbox, SandboxStore


class SandboxStoreService(Service):
    """Sandboxes' records."""

    descriptor = api.DESCRIPTOR.services_by_name["Store"]

    def __init__(self, store: SandboxStore) -> None:
        self._store = store

    async def create(self, request: Any, context: CallContext) -> api.StoreCreateResponse:
        made = await self._store.create(context.namespace, from_message(request.sandbox))
        return api.StoreCreateResponse(sandbox=to_message(made))

    async def update(self, request: Any, context: CallContext) -> api.StoreUpdateResponse:
        changed = await self._store.update(context.namespace, from_message(request.sandbox), request.fields)
        return api.StoreUpdateResponse(sandbox=to_message(changed))

    async def delete(self, request: Any, context: CallContext) -> api.StoreDeleteResponse:
        await self._store.delete(context.namespace, request.sandbox_id)
        return api.StoreDeleteResponse()

    async def list(self, request: Any, context: CallContext) -> api.StoreListResponse:
        found = self._store.list(context.namespace, request.filters)
        return api.StoreListResponse(list=[to_message(sandbox) for sandbox in found])

    async def get(self, request: Any, context: CallContext) -> api.StoreGetResponse:
        return api.StoreGetResponse(sandbox=to_message(self._store.get(context.namespace, request.sandbox_id)))


def to_message(sandbox: Sandbox) -> types_pb2.Sandbox:
    """Return a sandbox's message."""
    return types_pb2.Sandbox(
        sandbox_id=sandbox.id,
        runtime=types_pb2.Sandbox.Runtime(name=sandbox.runtime_name, options=packed.message(sandbox.runtime_options)),
        spec=packed.message(sandbox.spec),
        labels=sandbox.labels,
        created_at=typeurl.timestamp(sandbox.created_at),
        updated_at=typeurl.timestamp(sandbox.updated_at),
        extensions=packed.messages(sandbox.extensions),
        sandboxer=sandbox.sandboxer,
    )


def from_message(message: Any) -> Sandbox:
    """Return what a message says of a sandbox; its times are the server's own matter."""
    return Sandbox(
        id=message.sandbox_id,
        labels=dict(message.labels),
        runtime_name=message.runtime.name,
        runtime_options=packed.field(message.runtime, "options"),
        spec=packed.field(message, "spec"),
        extensions={key: (value.type_url, value.value) for key, value in message.extensions.items()},
        sandboxer=message.sandboxer,
    )

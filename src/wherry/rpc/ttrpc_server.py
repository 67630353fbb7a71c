"""Services served over ttrpc."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from wherry.errors import InvalidArgument
from wherry.rpc.context import CallContext
from wherry.rpc.service import Method, Service
from wherry.ttrpc.server import Endpoint, Metadata, Server


def endpoint(method: Method) -> Endpoint:
    """Return what serves a service's method, messages for bytes."""
    handler = method.handler
    assert handler is not None, f"{method.service}.{method.name} has no handler"

    def parse(payload: bytes) -> Any:
        try:
            return method.request.FromString(payload)
        except Exception as error:
            raise InvalidArgument(f"{method.service}/{method.name}: unmarshal request: {error}") from None

    async def unary(payload: bytes, metadata: Metadata, timeout: float | None) -> bytes:
        response = await handler(parse(payload), CallContext(metadata, timeout))
        serialized: bytes = response.SerializeToString()
        return serialized

    async def stream(payloads: AsyncIterator[bytes], metadata: Metadata, timeout: float | None) -> AsyncIterator[bytes]:
        async def requests() -> AsyncIterator[Any]:
            async for payload in payloads:
                yield parse(payload)

        context = CallContext(metadata, timeout)
        if method.client_streaming:
            responses = handler(requests(), context)
        else:
            responses = handler(await anext(requests(), method.request()), context)
        try:
            async for response in responses:
                yield response.SerializeToString()
        finally:
            await responses.aclose()

    return Endpoint(stream=stream) if method.streaming else Endpoint(unary=unary)


def ttrpc_server(services: Iterable[Service]) -> Server:
    """Return a ttrpc server of services."""
    endpoints: dict[str, dict[str, Endpoint]] = {}
    for service in services:
        methods = endpoints.setdefault(service.descriptor.full_name, {})
        methods.update((method.name, endpoint(method)) for method in service.methods())
    return Server(endpoints)

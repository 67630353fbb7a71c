"""Services served over ttrpc."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from typing import Any

from wherry.errors import InvalidArgument
from wherry.rpc.context import CallContext
from wherry.rpc.service import Method, Service
from wherry.ttrpc.server import Endpoint, Metadata, Server


class TtrpcServer(Server):
    """A ttrpc server of services, for peers of the allowed users (root and the server's own if None)."""

    def __init__(self, services: Iterable[Service], *, allowed_uids: Collection[int] | None = None) -> None:
        endpoints: dict[str, dict[str, Endpoint]] = {}
        for service in services:
            methods = endpoints.setdefault(service.descriptor.full_name, {})
            methods.update((method.name, endpoint(method)) for method in service.methods())
        super().__init__(endpoints, allowed_uids=allowed_uids)


def endpoint(method: Method) -> Endpoint:
    """Return what serves a service's method, messages for bytes."""
    handler = method.handler
    assert handler is not None, f"{method.service}/{method.name} has no handler"

    def parse(payload: bytes) -> Any:
        try:
            return method.request.FromString(payload)
        except Exception as error:
            raise InvalidArgument(f"{method.service}/{method.name}: unmarshal request: {error}") from None

    async def unary(payload: bytes, metadata: Metadata, timeout: float | None) -> bytes:
        response = await handler(parse(payload), CallContext(metadata, timeout))
        serialized: bytes = response.SerializeToString()
        return serialized

    async def stream(
        payloads: AsyncIterator[bytes], metadata: Metadata, timeout: float | None
    ) -> AsyncGenerator[bytes, None]:
        context = CallContext(metadata, timeout)
        if method.client_streaming:
            responses = handler((parse(payload) async for payload in payloads), context)
        else:
            responses = handler(parse(await anext(payloads)), context)
        try:
            async for response in responses:
                yield response.SerializeToString()
        finally:
            await responses.aclose()

    if not method.streaming:
        return Endpoint(unary=unary)
    return Endpoint(stream=stream, client_streams=method.client_streaming, server_streams=method.server_streaming)

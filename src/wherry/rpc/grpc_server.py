"""Services served over gRPC on a unix socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import grpc.aio

from wherry.errors import Error, Unavailable, to_status
from wherry.rpc.context import CallContext
from wherry.rpc.service import Method, Service

log = logging.getLogger(__name__)

#: Both of containerd's ends raise gRPC's limit of 4 MiB to this.
MAX_MESSAGE = 16 << 20

OPTIONS = [("grpc.max_send_message_length", MAX_MESSAGE), ("grpc.max_receive_message_length", MAX_MESSAGE)]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcServer:
    """A gRPC server of services."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        self._stopping = asyncio.Event()
        for service in services:
            handlers = {method.name: self._handler(method) for method in service.methods()}
            generic = grpc.method_handlers_generic_handler(service.descriptor.full_name, handlers)
            self._server.add_generic_rpc_handlers((generic,))

    async def start(self, path: str) -> None:
        """Bind a unix socket at an absolute path and serve."""
        if not self._server.add_insecure_port(f"unix:{path}"):
            raise Unavailable(f"cannot listen on {path}")
        await self._server.start()

    async def stop(self, grace: float = 0.5) -> None:
        """Refuse new calls, end streams as UNAVAILABLE, and wait up to `grace` seconds for the calls under way."""
        self._stopping.set()
        await self._server.stop(grace)

    def _handler(self, method: Method) -> Any:
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        serve = self._stream(method) if method.streaming else self._unary(method)
        return make(
            serve,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )

    def _unary(self, method: Method) -> Any:
        handler = method.handler
        assert handler is not None

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                return await handler(request, _context(context))
            except Exception as error:
                await _abort(context, method, error)

        return serve

    def _stream(self, method: Method) -> Any:
        handler = method.handler
        assert handler is not None

        async def serve(requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            responses = handler(requests, _context(context))
            try:
                async for response in self._until_stopped(responses):
                    yield response
            except Exception as error:
                await _abort(context, method, error)
            finally:
                await responses.aclose()

        return serve

    async def _until_stopped(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        # A stream that the stopping server cancels ends as CANCELLED, which dockerd takes for a stop of its own.
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                following = asyncio.ensure_future(_next(responses))
                try:
                    await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not following.done():
                        following.cancel()
                        await asyncio.wait((following,))
                if following.cancelled():
                    raise Unavailable("the server is stopping")
                response = following.result()
                if response is _END:
                    return
                yield response
        finally:
            stopping.cancel()


_END = object()


async def _next(responses: AsyncIterator[Any]) -> Any:
    return await anext(responses, _END)


def _context(context: grpc.aio.ServicerContext[Any, Any]) -> CallContext:
    metadata = context.invocation_metadata() or ()
    return CallContext((key, value) for key, value in metadata if isinstance(value, str))


async def _abort(context: grpc.aio.ServicerContext[Any, Any], method: Method, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, Error):
        log.debug("%s.%s failed", method.service, method.name, exc_info=error)
    code, message = to_status(error)
    await context.abort(_CODES[code], message)

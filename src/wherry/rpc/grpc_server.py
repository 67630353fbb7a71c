"""Services served over gRPC on a unix socket."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio

from wherry.errors import Cancelled, Error, Unavailable, Unimplemented, to_status
from wherry.rpc.context import CallContext
from wherry.rpc.grpc_transport import OPTIONS, target
from wherry.rpc.service import Method, Service

log = logging.getLogger(__name__)

#: Characters of an error's text. It travels in a header, where gRPC's C library and its heirs take little.
_MAX_TEXT = 4096

#: Seconds for connections to close once no call is under way: a client may be in the middle of a handshake.
_CLOSING = 0.1

_CODES = {code.value[0]: code for code in grpc.StatusCode}

_Context = Any  # grpc.aio.ServicerContext, which is typed as nothing more


class GrpcServer:
    """A gRPC server of services. Calls under way when it stops end as UNAVAILABLE."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((_Router(self, services),))

    async def start(self, path: str) -> None:
        """Make a socket at an absolute path, for root and its group, and serve. Unavailable if that fails."""
        # There must be no moment in which others could connect.
        mask = os.umask(0o117)
        try:
            self._server.add_insecure_port(target(path))
        except RuntimeError as error:
            raise Unavailable(f"cannot listen on {path}: {error}") from None
        finally:
            os.umask(mask)
        await self._server.start()

    async def stop(self, grace: float = 1.0) -> None:
        """Refuse new calls, end those under way as UNAVAILABLE within `grace` seconds, and remove the socket."""
        # What the stopping server cancels by itself ends as CANCELLED, which dockerd takes for a stop of its own.
        self._stopping = True
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace)
        await self._server.stop(_CLOSING)

    async def serve(self, method: str, call: Any, context: _Context) -> Any:
        """Await a call's work, and turn what it raises into the call's status."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            if self._stopping:
                raise _stopping()
            return await call
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if not self._stopping:
                if task.cancelling():
                    raise  # the client went away
                await _abort(context, Cancelled())  # the handler awaited something that was cancelled
            task.uncancel()
            await _abort(context, _stopping())
        except Exception as error:
            if not isinstance(error, Error):
                log.debug("%s failed", method, exc_info=error)
            await _abort(context, error)
        finally:
            call.close()
            self._calls.discard(task)


class _Router(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call, and says what is missing in the words of Go's gRPC."""

    def __init__(self, server: GrpcServer, services: Iterable[Service]) -> None:
        self._server = server
        self._services: set[str] = set()
        self._handlers: dict[str, Any] = {}
        for service in services:
            self._services.add(service.descriptor.full_name)
            for method in service.methods():
                self._handlers[f"/{method.service}/{method.name}"] = self._handler(method)

    def service(self, details: Any) -> Any:
        return self._handlers.get(details.method) or self._missing(details.method)

    def _missing(self, path: str) -> Any:
        _, _, rest = path.partition("/")
        service, _, method = rest.rpartition("/")
        if service in self._services:
            text = f"unknown method {method} for service {service}"
        else:
            text = f"unknown service {service}"

        async def refuse(_requests: Any, context: _Context) -> None:
            await context.abort(_CODES[Unimplemented.code], text)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _handler(self, method: Method) -> Any:
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        name = f"{method.service}/{method.name}"
        call = _stream_call if method.streaming else _unary_call

        async def serve(request: Any, context: _Context) -> Any:
            return await self._server.serve(name, call(method, request, context), context)

        return getattr(grpc, f"{kind}_rpc_method_handler")(
            serve,
            request_deserializer=method.request.FromString,
            response_serializer=method.response.SerializeToString,
        )


async def _unary_call(method: Method, request: Any, context: _Context) -> Any:
    assert method.handler is not None
    return await method.handler(request, _call_context(context))


async def _stream_call(method: Method, requests: Any, context: _Context) -> Any:
    assert method.handler is not None
    responses = method.handler(requests, _call_context(context))
    try:
        async for response in responses:
            if not method.server_streaming:
                return response
            await context.write(response)
    finally:
        await responses.aclose()
    return None


def _call_context(context: _Context) -> CallContext:
    metadata = context.invocation_metadata() or ()
    return CallContext(((key, value) for key, value in metadata if isinstance(value, str)), context.time_remaining())


def _stopping() -> Error:
    return Unavailable("the server is stopping")


async def _abort(context: _Context, error: Exception) -> None:
    code, message = to_status(error)
    text = message[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()
    await context.abort(_CODES[code], text)

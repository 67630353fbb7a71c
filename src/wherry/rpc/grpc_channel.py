"""A channel over gRPC, for event loops: to wherryd, and to containerd itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from wherry.errors import Error, from_status
from wherry.rpc.service import Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata

#: As the server's.
_MAX_MESSAGE = 16 << 20


def _error(error: grpc.aio.AioRpcError) -> Error:
    return from_status(error.code().value[0], error.details() or "")


class GrpcChannel:
    """Calls over one gRPC connection to a unix socket."""

    def __init__(self, path: str) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{path}",
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE),
                ("grpc.max_receive_message_length", _MAX_MESSAGE),
            ],
        )
        self._calls: dict[tuple[str, str], Any] = {}

    def _call(self, method: Method) -> Any:
        call = self._calls.get((method.service, method.name))
        if call is None:
            kind = ("stream" if method.client_streaming else "unary") + (
                "_stream" if method.server_streaming else "_unary"
            )
            call = self._calls[method.service, method.name] = getattr(self._channel, kind)(
                f"/{method.service}/{method.name}",
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
        return call

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        try:
            return await self._call(method)(request, metadata=tuple(metadata), timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        call = self._call(method)(requests, metadata=tuple(metadata), timeout=timeout)
        try:
            if method.server_streaming:
                async for response in call:
                    yield response
            else:
                yield await call
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()

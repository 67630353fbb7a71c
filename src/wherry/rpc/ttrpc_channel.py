"""A channel over ttrpc, for event loops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from wherry.errors import Unavailable
from wherry.rpc.channel import serialized
from wherry.rpc.service import Method
from wherry.ttrpc.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata


class TtrpcChannel:
    """Calls over one ttrpc connection."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def connect(cls, path: str, timeout: float | None = None) -> TtrpcChannel:
        """Connect to a unix socket. Unavailable if nobody answers there within `timeout` seconds."""
        try:
            return cls(await Client.connect(path, timeout))
        except TimeoutError:
            raise Unavailable(f"connect to {path}: timed out") from None
        except OSError as error:
            raise Unavailable(f"connect to {path}: {(error.strerror or str(error)).lower()}") from None

    @classmethod
    async def from_socket(cls, sock: socket.socket) -> TtrpcChannel:
        """Take over a connected socket."""
        return cls(await Client.from_socket(sock))

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection has ended, by either side."""
        return self._client.closed

    @property
    def socket(self) -> socket.socket:
        """The connection's socket, for what the kernel knows of the peer."""
        return self._client.socket

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        payload = await self._client.unary(method.service, method.name, request.SerializeToString(), metadata, timeout)
        return method.response.FromString(payload)

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        payloads = self._client.stream(method.service, method.name, serialized(requests), metadata, timeout)
        try:
            async for payload in payloads:
                yield method.response.FromString(payload)
        finally:
            await payloads.aclose()

    async def close(self) -> None:
        self._client.close()

"""A channel to services of the same process: no bytes, no copies but of the messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from wherry.errors import DeadlineExceeded, Error, Unimplemented, from_status, to_status
from wherry.rpc.context import CallContext
from wherry.rpc.service import Method, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata


class LocalChannel:
    """Calls to services of this process, with the errors that a wire would give."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._methods = {(method.service, method.name): method for service in services for method in service.methods()}

    def _handler(self, method: Method) -> Any:
        try:
            return self._methods[method.service, method.name].handler
        except KeyError:
            raise Unimplemented(f"{method.service}/{method.name}") from None

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        handler = self._handler(method)
        try:
            async with asyncio.timeout(timeout):
                return await handler(request, CallContext(metadata, timeout))
        except TimeoutError:
            raise DeadlineExceeded() from None
        except Error:
            raise
        except Exception as error:
            raise from_status(*to_status(error)) from error

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncIterator[Any]:
        responses = self._handler(method)(requests, CallContext(metadata, timeout))
        try:
            async with asyncio.timeout(timeout):
                async for response in responses:
                    yield response
        except TimeoutError:
            raise DeadlineExceeded() from None
        finally:
            await responses.aclose()

    async def close(self) -> None:
        """Nothing is held open."""

"""A channel to services of the same process: no bytes, and the messages themselves are handed over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from wherry.errors import DeadlineExceeded, Error, Unimplemented, from_status, to_status
from wherry.rpc.context import CallContext
from wherry.rpc.service import Method, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata

log = logging.getLogger(__name__)


class LocalChannel:
    """Calls to services of this process, with the errors that a wire would give."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services: set[str] = set()
        self._methods: dict[tuple[str, str], Method] = {}
        for service in services:
            self._services.add(service.descriptor.full_name)
            self._methods.update(((method.service, method.name), method) for method in service.methods())

    def _handler(self, method: Method) -> Any:
        try:
            return self._methods[method.service, method.name].handler
        except KeyError:
            missing = method.name if method.service in self._services else ""
            text = f"method {missing}" if missing else f"service {method.service}"
            raise from_status(Unimplemented.code, text) from None

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        handler = self._handler(method)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await handler(request, CallContext(metadata, timeout))
        except Exception as error:
            raise _as_sent(method, error, late=limit.expired()) from error

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        handler = self._handler(method)
        failures: list[Exception] = []
        sent = _each(requests, failures) if method.client_streaming else requests
        responses = handler(sent, CallContext(metadata, timeout))
        try:
            while True:
                limit = asyncio.timeout_at(deadline)
                try:
                    async with limit:
                        response = await anext(responses)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    if error in failures:  # of the caller's own
                        raise
                    raise _as_sent(method, error, late=limit.expired()) from error
                yield response
                if not method.server_streaming:
                    return
        finally:
            await responses.aclose()

    async def close(self) -> None:
        """Nothing is held open."""


async def _each(requests: Message | AsyncIterator[Message], failures: list[Exception]) -> AsyncGenerator[Message, None]:
    try:
        if isinstance(requests, AsyncIterator):
            async for request in requests:
                yield request
        else:
            yield requests
    except Exception as error:
        failures.append(error)
        raise


def _as_sent(method: Method, error: Exception, *, late: bool) -> Error:
    if late and isinstance(error, TimeoutError):
        return DeadlineExceeded()
    if isinstance(error, Error):
        return error
    log.debug("%s/%s failed", method.service, method.name, exc_info=error)
    return from_status(*to_status(error))

"""A channel for a thread: its coroutines never suspend, the calls run in another thread's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.rpc.channel import Channel, Metadata
    from wherry.rpc.service import Method

T = TypeVar("T")


class BridgeChannel:
    """Calls over a channel of an event loop, from a thread that is not the loop's.

    Where both sides stream, a request is sent and then a response waited for: enough for calls with one response a
    request, as Content.Write is.
    """

    #: For who would wait with asyncio's means.
    suspends = False

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that calls through this channel alone, in this thread."""
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        coroutine.close()
        raise RuntimeError("a coroutine over a channel of a thread suspended")

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        return self._in_loop(self._channel.unary(method, request, metadata=metadata, timeout=timeout))

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        if not isinstance(requests, AsyncIterator):
            responses = self._channel.stream(method, requests, metadata=metadata, timeout=timeout)
            try:
                while (response := self._in_loop(anext(responses, None))) is not None:
                    yield response
            finally:
                self._in_loop(_close(responses))
            return
        outbox: asyncio.Queue[Message | None] = asyncio.Queue()
        responses = self._channel.stream(method, _each(outbox), metadata=metadata, timeout=timeout)
        try:
            async for request in requests:
                self._loop.call_soon_threadsafe(outbox.put_nowait, request)
                response = self._in_loop(anext(responses, None))
                if response is None:
                    return
                yield response
            self._loop.call_soon_threadsafe(outbox.put_nowait, None)
            while (response := self._in_loop(anext(responses, None))) is not None:
                yield response
        finally:
            self._in_loop(_close(responses))

    async def close(self) -> None:
        """The channel is its owner's."""

    def _in_loop(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(_awaited(awaitable), self._loop).result()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


async def _close(responses: Any) -> None:
    await responses.aclose()


async def _each(outbox: asyncio.Queue[Message | None]) -> AsyncIterator[Message]:
    while (request := await outbox.get()) is not None:
        yield request

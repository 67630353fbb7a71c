"""A channel over ttrpc without an event loop: a client that makes one call after another starts 40 ms sooner.

Its coroutines never suspend: each waits for its answer in poll(2), and `run` steps a coroutine made of such calls to
its end. While it waits, readers added with `add_reader` are called back, so that a program can copy a container's
output or forward a signal meanwhile.
"""

from __future__ import annotations

from wherry.errors import Unavailable
from wherry.rpc.channel import serialized
from wherry.ttrpc.blocking import BlockingClient

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
    from socket import socket
    from typing import Any, TypeVar

    from google.protobuf.message import Message

    from wherry.rpc.channel import Metadata
    from wherry.rpc.service import Method

    T = TypeVar("T")


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that suspends nowhere. RuntimeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine awaits something else than the calls of a blocking channel")


class BlockingTtrpcChannel:
    """Calls over one ttrpc connection, without asyncio. Not for use from two threads at once."""

    #: For who streams: nothing may be awaited between two requests, not even the answer to the first.
    suspends = False

    def __init__(self, client: BlockingClient) -> None:
        self._client = client
        self.add_reader: Callable[[int, Callable[[], None]], None] = client.add_reader
        """Call back whenever a descriptor can be read, or hangs up, while a call waits."""
        self.remove_reader: Callable[[int], None] = client.remove_reader
        """Undo add_reader; nothing happens if there was none."""

    @classmethod
    def connect(cls, path: str, timeout: float | None = 10.0) -> BlockingTtrpcChannel:
        """Connect to a unix socket. Unavailable if nobody answers there within `timeout` seconds."""
        try:
            return cls(BlockingClient.connect(path, timeout))
        except OSError as error:
            raise Unavailable(f"connect to {path}: {(error.strerror or str(error)).lower()}") from None

    @classmethod
    def from_socket(cls, sock: socket) -> BlockingTtrpcChannel:
        """Take over a connected socket."""
        return cls(BlockingClient(sock))

    @property
    def closed(self) -> bool:
        """Whether the connection is known to have ended."""
        return self._client.closed

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that awaits nothing but this channel's calls, and return its result."""
        return step(coroutine)

    def wait(self, timeout: float | None = None) -> None:
        """Wait until a reader was called back, or the server had something to say, or `timeout` seconds passed."""
        self._client.wait(timeout)

    async def unary(
        self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
    ) -> Any:
        payload = self._client.unary(method.service, method.name, request.SerializeToString(), metadata, timeout)
        return method.response.FromString(payload)

    def start_unary(self, method: Method, request: Message, *, metadata: Metadata = ()) -> None:
        """Send a call whose answer is dropped when it comes: for use in a reader's callback."""
        self._client.start_unary(method.service, method.name, request.SerializeToString(), metadata)

    async def stream(
        self,
        method: Method,
        requests: Message | AsyncIterator[Message],
        *,
        metadata: Metadata = (),
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Make a streaming call. The next request is taken when the responses that are here have been."""
        parse = method.response.FromString
        payloads = serialized(requests)
        if isinstance(payloads, bytes):
            stream = self._client.start_stream(method.service, method.name, payloads, metadata, timeout)
        else:
            stream = self._client.start_stream(method.service, method.name, b"", metadata, timeout, sending=True)
        try:
            if not isinstance(payloads, bytes):
                async for payload in payloads:
                    if not stream.send(payload):
                        break
                    for response in stream.arrived():
                        yield parse(response)
                else:
                    stream.end()
            for response in stream:
                yield parse(response)
        finally:
            stream.close()

    async def close(self) -> None:
        self._client.close()

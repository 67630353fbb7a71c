"""Channels and stubs: the calling side, the same over every transport.

A channel makes calls; a stub gives them the names of one service's RPCs: ``await Stub(channel, descriptor).list_pids(
request)``. Methods of streaming RPCs return an async iterator, and take one where the client streams.
"""

from __future__ import annotations

from wherry.rpc.service import Method, snake_case

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from typing import Any, Protocol

    from google.protobuf.descriptor import ServiceDescriptor
    from google.protobuf.message import Message

    Metadata = Sequence[tuple[str, str]]

    class Channel(Protocol):
        """A connection to a server. Every failure is raised as a kind of wherry.errors.Error."""

        async def unary(
            self, method: Method, request: Message, *, metadata: Metadata = (), timeout: float | None = None
        ) -> Any:
            """Make a call with one request and one response. `timeout` is in seconds."""

        def stream(
            self,
            method: Method,
            requests: Message | AsyncIterator[Message],
            *,
            metadata: Metadata = (),
            timeout: float | None = None,
        ) -> AsyncIterator[Any]:
            """Make a call in which either side streams; closing the iterator cancels it."""

        async def close(self) -> None:
            """Close the connection; calls under way fail with Unavailable or Cancelled."""


class Stub:
    """One service's RPCs as methods, each called with a request and the keywords of Channel.unary or .stream."""

    def __init__(self, channel: Channel, descriptor: ServiceDescriptor) -> None:
        self._channel = channel
        self._descriptors = {snake_case(method.name): method for method in descriptor.methods}
        self._service = descriptor.full_name

    def __getattr__(self, name: str) -> Callable[..., Any]:
        try:
            method = Method(self._service, self._descriptors[name])
        except KeyError:
            raise AttributeError(f"{self._service} has no method {name}") from None
        call = self._channel.stream if method.streaming else self._channel.unary

        def bound(request: Any, **keywords: Any) -> Any:
            return call(method, request, **keywords)

        setattr(self, name, bound)
        return bound


def serialized(requests: Message | AsyncIterator[Message]) -> bytes | AsyncIterator[bytes]:
    """Return a request's bytes, or an iterator over those of each request."""
    if hasattr(requests, "SerializeToString"):
        payload: bytes = requests.SerializeToString()
        return payload

    async def each() -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.SerializeToString()

    return each()

"""containerd.services.streaming.v1.Streaming: streams that clients open, for another call of theirs to use by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from wherry.api import typeurl
from wherry.api.services.streaming.v1 import streaming_pb2 as api
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service

log = logging.getLogger(__name__)

#: Messages that wait in either direction: one that is used and one that is on its way. What is sent here is bounded by
#: its sender's window, or waits for the client to take it.
_WAITING = 2

#: What acknowledges a stream.
_EMPTY = "google.protobuf.Empty"


class Stream:
    """One client's stream, seen from the daemon."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._inbox: asyncio.Queue[AnyMessage | None] = asyncio.Queue(_WAITING)
        self._outbox: asyncio.Queue[AnyMessage | None] = asyncio.Queue(_WAITING)
        self._gone = asyncio.Event()
        self._at_end = False

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, so that nothing that is sent arrives."""
        return self._gone.is_set()

    async def receive(self) -> AnyMessage | None:
        """Return the client's next message; None when it has said its last. Unavailable if it left before that."""
        if self._at_end:
            return None
        message: AnyMessage | None
        if self._inbox.empty():
            message = await self._first(self._inbox.get())
        else:
            message = self._inbox.get_nowait()
        if message is None:
            self._at_end = True
        return message

    async def send(self, message: AnyMessage) -> None:
        """Hand the client a message, as soon as it takes one. Unavailable if it has left."""
        await self._put(message)

    async def close(self) -> None:
        """Say that nothing follows. The client sees the end when it has taken what was sent."""
        try:
            await self._put(None)
        except Unavailable:
            pass  # it does not wait for it

    def abort(self) -> None:
        """End the stream; what the client has not taken yet is lost."""
        while not self._outbox.empty():
            self._outbox.get_nowait()
        self._outbox.put_nowait(None)

    async def _put(self, message: AnyMessage | None) -> None:
        if self._outbox.full() or self._gone.is_set():
            await self._first(self._outbox.put(message))
        else:
            self._outbox.put_nowait(message)

    async def _first(self, wanted: Any) -> Any:
        """Wait for something, or for the client to leave."""
        if self._gone.is_set():
            wanted.close()
            raise Unavailable(f'stream "{self.name}": the client has left')
        waiting = asyncio.ensure_future(wanted)
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise Unavailable(f'stream "{self.name}": the client has left')
            return waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()

    async def answers(self, requests: AsyncIterator[AnyMessage]) -> AsyncGenerator[AnyMessage, None]:
        """Be the stream: take what the client sends, yield what it is sent, until it is closed or the client leaves."""
        taking = asyncio.ensure_future(self._take(requests))
        try:
            while (message := await self._outbox.get()) is not None:
                yield message
        finally:
            self._gone.set()
            taking.cancel()
            await asyncio.wait([taking])

    async def _take(self, requests: AsyncIterator[AnyMessage]) -> None:
        try:
            async for request in requests:
                await self._inbox.put(request)
        except Exception as error:
            # The client broke off; its call ends by itself.
            log.debug("stream %s: %s", self.name, error)
            self._gone.set()
            return
        await self._inbox.put(None)


class Streams:
    """The streams that are open, by namespace and name."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], Stream] = {}

    def open(self, namespace: str, name: str) -> Stream:
        """Make a stream. AlreadyExists if there is one of the name."""
        key = namespace, name
        if key in self._streams:
            raise AlreadyExists(f'stream "{name}"')
        stream = self._streams[key] = Stream(name)
        return stream

    def get(self, namespace: str, name: str) -> Stream:
        """Return a stream by its name. NotFound."""
        try:
            return self._streams[namespace, name]
        except KeyError:
            raise NotFound(f'stream "{name}"') from None

    def forget(self, namespace: str, name: str) -> None:
        """Take a stream's name away."""
        del self._streams[namespace, name]


class StreamingService(Service):
    """Registers streams: the first message names one, which is acknowledged when it can be used."""

    descriptor = api.DESCRIPTOR.services_by_name["Streaming"]

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def stream(self, requests: AsyncIterator[Any], context: CallContext) -> AsyncIterator[AnyMessage]:
        first = await anext(requests, None)
        init = typeurl.unpack(first) if first is not None else None
        if not isinstance(init, api.StreamInit):
            raise InvalidArgument("the first message of a stream must be a StreamInit, which names it")
        namespace = context.namespace
        stream = self._streams.open(namespace, init.id)
        try:
            yield AnyMessage(type_url=_EMPTY)
            answers = stream.answers(requests)
            try:
                async for message in answers:
                    yield message
            finally:
                await answers.aclose()
        finally:
            self._streams.forget(namespace, init.id)

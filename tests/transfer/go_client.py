"""A client of Streaming and Transfer that says what ctr 2.3 says, in Go's pieces and windows; not wherry's SDK."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message

from wherry.api import typeurl
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.streaming.v1 import streaming_pb2
from wherry.api.services.transfer.v1 import transfer_pb2 as api
from wherry.api.types import types_pb2
from wherry.api.types.transfer import transfer_pb2 as types
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

_numbers = itertools.count()

_PIECE = 32 * 1024
_WINDOW = 2 * _PIECE


class OpenStream:
    """One stream that the client has opened and the daemon acknowledged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._requests: asyncio.Queue[AnyMessage | None] = asyncio.Queue()
        self.responses: Any = None

    async def requests(self) -> AsyncIterator[AnyMessage]:
        yield typeurl.pack(streaming_pb2.StreamInit(id=self.name))
        while (request := await self._requests.get()) is not None:
            yield request

    def send(self, message: Message) -> None:
        self._requests.put_nowait(typeurl.pack(message))

    def half_close(self) -> None:
        self._requests.put_nowait(None)

    async def receive(self) -> Message | None:
        message = await anext(self.responses, None)
        return None if message is None else typeurl.unpack(message)


class GoClient:
    """Calls over one channel, in one namespace."""

    def __init__(self, channel: Any, namespace: str) -> None:
        self.namespace = namespace
        self._channel = channel
        self.metadata = metadata_for(namespace)
        self._streaming = Stub(channel, streaming_pb2.DESCRIPTOR.services_by_name["Streaming"])
        self._transfer = Stub(channel, api.DESCRIPTOR.services_by_name["Transfer"])
        self._leases = Stub(channel, leases_pb2.DESCRIPTOR.services_by_name["Leases"])
        #: What is open: gRPC cancels a call that nobody refers to.
        self._open: list[OpenStream] = []
        #: Every event of the last transfer.
        self.events: list[types.Progress] = []

    async def open(self, kind: str) -> OpenStream:
        stream = OpenStream(f"{kind}-{next(_numbers)}-{os.urandom(3).hex()}")
        self._open.append(stream)
        stream.responses = self._streaming.stream(stream.requests(), metadata=self.metadata)
        acknowledged = await anext(stream.responses)
        assert acknowledged.type_url == "google.protobuf.Empty" and not acknowledged.value
        return stream

    async def transfer(self, source: Message, destination: Message) -> None:
        """Call Transfer with a progress stream, which must end when the call does."""
        progress = await self.open("progress")
        self.events = []

        async def watch() -> None:
            while (event := await progress.receive()) is not None:
                assert isinstance(event, types.Progress)
                self.events.append(event)

        watching = asyncio.ensure_future(watch())
        lease = f"lease-{next(_numbers)}-{os.urandom(3).hex()}"
        await self._leases.create(leases_pb2.CreateRequest(id=lease), metadata=self.metadata)
        under = metadata_for(self.namespace, lease)
        request = api.TransferRequest(
            source=typeurl.pack(source),
            destination=typeurl.pack(destination),
            options=api.TransferOptions(progress_stream=progress.name),
        )
        try:
            await self._transfer.transfer(request, metadata=under)
        finally:
            await self._leases.delete(leases_pb2.DeleteRequest(id=lease), metadata=under)
            _done, late = await asyncio.wait([watching], timeout=30)
            watching.cancel()
        assert not late, "the progress stream has no end"

    async def sending(self, kind: str, read: Callable[[int], bytes]) -> tuple[str, asyncio.Task[None]]:
        """Open a stream of bytes and send them within the window that is granted, 32 KiB at a time."""
        stream = await self.open(kind)

        async def send() -> None:
            window = 0
            while data := read(_PIECE):
                while window < len(data):
                    update = await stream.receive()
                    if update is None:
                        return
                    assert isinstance(update, types.WindowUpdate)
                    window += update.update
                stream.send(types.Data(data=data))
                window -= len(data)
            stream.half_close()

        return stream.name, asyncio.create_task(send())

    async def receiving(self, kind: str, write: Callable[[bytes], Any]) -> tuple[str, asyncio.Task[None]]:
        """Open a stream of bytes and take them, 64 KiB granted at a time."""
        stream = await self.open(kind)

        async def receive() -> None:
            window = 0
            while True:
                if window < _WINDOW:
                    stream.send(types.WindowUpdate(update=_WINDOW))
                    window += _WINDOW
                data = await stream.receive()
                if data is None:
                    return
                assert isinstance(data, types.Data) and len(data.data) <= _PIECE
                window -= len(data.data)
                assert window >= 0, "more came than was granted"
                write(data.data)

        return stream.name, asyncio.create_task(receive())


def host_platform() -> types_pb2.Platform:
    return types_pb2.Platform(os="linux", architecture="amd64")

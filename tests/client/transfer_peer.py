"""A scripted peer of the Transfer and Streaming services: what a daemon does, as far as a client sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from wherry.api.services.images.v1 import images_pb2
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.streaming.v1 import streaming_pb2
from wherry.api.services.transfer.v1 import transfer_pb2 as service_pb2
from wherry.api.types import types_pb2
from wherry.api.types.transfer import transfer_pb2
from wherry.api.typeurl import pack, unpack
from wherry.api.wellknown_pb2 import Any as Packed
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import NotFound
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service

TARGET = types_pb2.Descriptor(
    media_type="application/vnd.oci.image.manifest.v1+json", digest="sha256:" + 64 * "a", size=9
)


class PeerStream:
    """The daemon's end of a stream."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.outgoing.put(message)

    async def receive(self) -> Any:
        """Return the next message; None at the end."""
        return await self.incoming.get()

    async def close(self) -> None:
        await self.outgoing.put(None)


@dataclass
class Peer:
    """The services, and what was asked of them. `script` plays a transfer: its source, destination and this."""

    script: Callable[[Any, Any, Peer], Awaitable[None]]
    streams: dict[str, PeerStream] = field(default_factory=dict)
    request: service_pb2.TransferRequest | None = None
    contexts: list[CallContext] = field(default_factory=list)
    leases: set[str] = field(default_factory=set)
    cancelled: bool = False

    def services(self) -> list[Service]:
        return [_Streaming(self), _Transfer(self), _Leases(self), _Images()]

    async def progress(self, **fields: Any) -> None:
        assert self.request is not None
        await self.streams[self.request.options.progress_stream].send(transfer_pb2.Progress(**fields))


class _Streaming(Service):
    descriptor = streaming_pb2.DESCRIPTOR.services_by_name["Streaming"]

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def stream(self, requests: AsyncIterator[Packed], context: CallContext) -> AsyncIterator[Packed]:
        self._peer.contexts.append(context)
        init = unpack(await anext(requests))
        assert isinstance(init, streaming_pb2.StreamInit)
        stream = self._peer.streams[init.id] = PeerStream()

        async def read() -> None:
            async for packed in requests:
                await stream.incoming.put(unpack(packed))
            await stream.incoming.put(None)

        reading = asyncio.create_task(read())
        try:
            yield Packed(type_url="google.protobuf.Empty")
            # Something that a newer daemon may say.
            yield Packed(type_url="containerd.types.transfer.NotKnownYet", value=b"x")
            while (message := await stream.outgoing.get()) is not None:
                yield pack(message)
        finally:
            reading.cancel()
            stream.ended.set()


class _Transfer(Service):
    descriptor = service_pb2.DESCRIPTOR.services_by_name["Transfer"]

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def transfer(self, request: service_pb2.TransferRequest, context: CallContext) -> Empty:
        peer = self._peer
        peer.contexts.append(context)
        peer.request = request
        assert context.lease in peer.leases
        try:
            await peer.script(unpack(request.source), unpack(request.destination), peer)
        except asyncio.CancelledError:
            peer.cancelled = True
            raise
        finally:
            for stream in peer.streams.values():
                await stream.close()
        return Empty()


class _Leases(Service):
    descriptor = leases_pb2.DESCRIPTOR.services_by_name["Leases"]

    def __init__(self, peer: Peer) -> None:
        self._leases = peer.leases

    async def create(self, request: leases_pb2.CreateRequest, context: CallContext) -> leases_pb2.CreateResponse:
        self._leases.add(request.id)
        return leases_pb2.CreateResponse(lease=leases_pb2.Lease(id=request.id))

    async def delete(self, request: leases_pb2.DeleteRequest, context: CallContext) -> Empty:
        self._leases.remove(request.id)
        return Empty()


class _Images(Service):
    descriptor = images_pb2.DESCRIPTOR.services_by_name["Images"]

    async def get(self, request: images_pb2.GetImageRequest, context: CallContext) -> images_pb2.GetImageResponse:
        if request.name == "absent":
            raise NotFound('image "absent"')
        return images_pb2.GetImageResponse(image=images_pb2.Image(name=request.name, target=TARGET))

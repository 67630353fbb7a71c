"""One service over every transport: what serves it, a channel and a stub."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.rpc.echo_service import EchoService
from wherry.rpc.channel import Stub
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.grpc_server import GrpcServer
from wherry.rpc.local_channel import LocalChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.rpc.ttrpc_server import TtrpcServer


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


class Echo:
    """A served EchoService, a channel to it and the stub."""

    def __init__(self, service: EchoService, channel: Any, stop: Callable[[], Any]) -> None:
        self.service = service
        self.channel = channel
        self.stub = Stub(channel, EchoService.descriptor)
        self.stop = stop


@asynccontextmanager
async def over_ttrpc(path: Path) -> AsyncIterator[Echo]:
    service = EchoService()
    server = TtrpcServer([service])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(listening(path)))
        channel = await TtrpcChannel.connect(str(path))
        yield Echo(service, channel, server.close)
        await channel.close()
        await server.close()


@asynccontextmanager
async def over_grpc(path: Path) -> AsyncIterator[Echo]:
    service = EchoService()
    server = GrpcServer([service])
    await server.start(str(path))
    channel = GrpcChannel(str(path))
    yield Echo(service, channel, server.stop)
    await channel.close()
    await server.stop()


@asynccontextmanager
async def local(_path: Path) -> AsyncIterator[Echo]:
    service = EchoService()

    async def stop() -> None:
        """There is nothing to stop."""

    yield Echo(service, LocalChannel([service]), stop)


TRANSPORTS = {"ttrpc": over_ttrpc, "grpc": over_grpc, "local": local}

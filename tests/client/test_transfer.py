"""The client's side of the Transfer service, against a peer that plays what it is told to, over ttrpc and gRPC."""

from __future__ import annotations

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.transfer_peer import TARGET, Peer
from wherry.api.types.transfer import transfer_pb2
from wherry.client.transfer import Registry, Transferrer
from wherry.errors import DataLoss, FailedPrecondition, InvalidArgument, Unimplemented
from wherry.oci.platform import Platform
from wherry.registry.options import Credentials, CredentialsKind
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.grpc_server import GrpcServer
from wherry.rpc.service import Service
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.rpc.ttrpc_server import TtrpcServer

REFERENCE = "registry.test/a/b:1"
Script = Callable[[Any, Any, Peer], Awaitable[None]]
Play = Callable[[Script], AbstractAsyncContextManager[tuple[Transferrer, Peer]]]


@asynccontextmanager
async def _ttrpc(path: str, services: list[Service]) -> AsyncIterator[Any]:
    server = TtrpcServer(services)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(listening))
            channel = await TtrpcChannel.connect(path)
            yield channel
            await channel.close()
            await server.close()


@asynccontextmanager
async def _grpc(path: str, services: list[Service]) -> AsyncIterator[Any]:
    server = GrpcServer(services)
    await server.start(path)
    channel = GrpcChannel(path)
    yield channel
    await channel.close()
    await server.stop()


_TRANSPORTS = {"ttrpc": _ttrpc, "grpc": _grpc}


@pytest.fixture(params=_TRANSPORTS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Serve a script; yields a client of it and the peer."""

    @asynccontextmanager
    async def serve(script: Script) -> AsyncIterator[tuple[Transferrer, Peer]]:
        peer = Peer(script)
        path = f"{tmp_path}/s"
        async with _TRANSPORTS[request.param](path, peer.services()) as channel:
            yield Transferrer(channel, "ns"), peer
        assert not peer.leases

    return serve


async def test_pull(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        await peer.progress(event="fetching image content", name=REFERENCE)
        for count in range(100):
            await peer.progress(event="downloading", name="layer-x", progress=count, total=100)
        await peer.progress(event="saved", name=destination.name)

    seen: list[Any] = []
    async with play(script) as (client, peer):
        image = await client.pull(
            REFERENCE,
            labels={"k": "v"},
            snapshotter="native",
            registry=Registry(hosts_dir="/hosts", plain_http=True, headers={"X-A": "b"}),
            on_progress=seen.append,
        )
    assert (image.name, image.target) == (REFERENCE, TARGET)
    # Whatever the daemon told before its answer has arrived.
    assert [each.event for each in seen] == ["fetching image content", *["downloading"] * 100, "saved"]
    assert peer.request is not None
    assert (peer.request.source.type_url, peer.request.destination.type_url) == (
        "containerd.types.transfer.OCIRegistry",
        "containerd.types.transfer.ImageStore",
    )
    source = transfer_pb2.OCIRegistry.FromString(peer.request.source.value)
    assert source == transfer_pb2.OCIRegistry(
        reference=REFERENCE,
        resolver=transfer_pb2.RegistryResolver(host_dir="/hosts", default_scheme="http", headers={"X-A": "b"}),
    )
    store = transfer_pb2.ImageStore.FromString(peer.request.destination.value)
    (platform,) = store.platforms
    assert (platform.os, platform.architecture) == ("linux", Platform.host().architecture)
    assert [(unpack.platform, unpack.snapshotter) for unpack in store.unpacks] == [(platform, "native")]
    assert dict(store.labels) == {"k": "v"}
    assert {context.namespace for context in peer.contexts} == {"ns"}


async def test_platforms(play: Play) -> None:
    stores: list[Any] = []

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stores.append(destination)

    async with play(script) as (client, _peer):
        await client.pull(REFERENCE, name="other", platforms=["linux/arm64", "linux/arm/v7"])
        await client.pull(REFERENCE, all_platforms=True)
        await client.pull(REFERENCE, unpack=False)
        with pytest.raises(InvalidArgument, match="either some platforms or all"):
            await client.pull(REFERENCE, all_platforms=True, platforms=["linux/arm64"])
    some, all, packed = stores
    assert some.name == "other"
    assert [(each.architecture, each.variant) for each in some.platforms] == [("arm64", ""), ("arm", "v7")]
    assert [each.platform for each in some.unpacks] == list(some.platforms)
    assert (len(all.platforms), len(all.unpacks)) == (0, 1)
    assert (len(packed.platforms), len(packed.unpacks)) == (1, 0)


async def test_credentials(play: Play) -> None:
    answers: list[Any] = []

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[source.resolver.auth_stream]
        for host in ("password", "identity", "bearer", "unknown"):
            await stream.send(transfer_pb2.AuthRequest(host=host, reference=REFERENCE))
            answers.append(await stream.receive())

    known = {
        "password": Credentials("me", "secret"),
        "identity": Credentials("me", "refresh", CredentialsKind.REFRESH),
        "bearer": Credentials("", "Bearer token", CredentialsKind.HEADER),
    }
    asked: list[tuple[str, str]] = []

    def provide(host: str, reference: str) -> Credentials | None:
        asked.append((host, reference))
        return known.get(host)

    async with play(script) as (client, _peer):
        await client.pull(REFERENCE, registry=Registry(credentials=provide))
    assert asked == [(host, REFERENCE) for host in ("password", "identity", "bearer", "unknown")]
    assert answers == [
        transfer_pb2.AuthResponse(authType=transfer_pb2.CREDENTIALS, username="me", secret="secret"),
        transfer_pb2.AuthResponse(authType=transfer_pb2.REFRESH, username="me", secret="refresh"),
        transfer_pb2.AuthResponse(authType=transfer_pb2.HEADER, secret="Bearer token"),
        transfer_pb2.AuthResponse(authType=transfer_pb2.NONE),
    ]


async def test_a_credential_helper_that_fails_ends_the_pull(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[source.resolver.auth_stream]
        await stream.send(transfer_pb2.AuthRequest(host="x"))
        await stream.receive()

    def provide(host: str, reference: str) -> Credentials | None:
        raise FailedPrecondition("the helper is not installed")

    async with play(script) as (client, peer):
        with pytest.raises(FailedPrecondition, match="the helper is not installed"):
            await client.pull(REFERENCE, registry=Registry(credentials=provide))
        await _until(lambda: peer.cancelled)


async def test_a_failure_is_the_daemons(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        await peer.progress(event="resolving")
        raise FailedPrecondition("no such thing in the registry")

    seen: list[Any] = []
    async with play(script) as (client, _peer):
        with pytest.raises(FailedPrecondition, match="no such thing in the registry"):
            await client.pull(REFERENCE, on_progress=seen.append)


async def test_a_cancelled_pull_is_called_off(play: Play) -> None:
    begun = asyncio.Event()

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with play(script) as (client, peer):
        pulling = asyncio.create_task(client.pull(REFERENCE, on_progress=lambda progress: None))
        await begun.wait()
        pulling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pulling
        await _until(lambda: peer.cancelled and all(stream.ended.is_set() for stream in peer.streams.values()))


async def test_push_and_tag(play: Play) -> None:
    pairs: list[tuple[Any, Any]] = []

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        pairs.append((source, destination))

    async with play(script) as (client, _peer):
        await client.push("a")
        await client.push("a", REFERENCE, platforms=["linux/arm64"])
        assert (await client.tag("a", "b")).name == "b"
    (first, to_itself), (one_platform, elsewhere), (old, new) = pairs
    assert (first.name, len(first.platforms), to_itself.reference) == ("a", 0, "a")
    assert (one_platform.platforms[0].architecture, elsewhere.reference) == ("arm64", REFERENCE)
    assert (old.name, new.name) == ("a", "b")


@pytest.mark.parametrize(("grant", "largest"), [(64 << 10, 32 << 10), (4 << 20, 1 << 20)])
async def test_import(play: Play, grant: int, largest: int) -> None:
    data = os.urandom(9_000_000)
    received = bytearray()
    sizes: list[int] = []

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[source.stream]
        window = 0
        while True:
            if window < grant:
                await stream.send(transfer_pb2.WindowUpdate(update=grant))
                window += grant
            message = await stream.receive()
            if message is None:
                break
            sizes.append(len(message.data))
            window -= len(message.data)
            assert window >= 0
            received.extend(message.data)
        (prefix,) = destination.extra_references
        assert (prefix.name, prefix.is_prefix, prefix.allow_overwrite) == ("base", True, True)
        for name in ("one", "two", "one"):
            await peer.progress(event="saved", name=name)

    async with play(script) as (client, _peer):
        images = await client.import_archive(io.BytesIO(data), base_name="base")
    assert received == data
    assert max(sizes) == largest
    assert [image.name for image in images] == ["one", "two"]


async def test_an_archive_without_names(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        await peer.streams[source.stream].send(transfer_pb2.WindowUpdate(update=10))

    async with play(script) as (client, _peer):
        with pytest.raises(InvalidArgument, match="names none of its images"):
            await client.import_archive(io.BytesIO(b"x"), base_name="base")


async def test_an_import_whose_archive_is_refused_or_cannot_be_read(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[source.stream]
        await stream.send(transfer_pb2.WindowUpdate(update=1000))
        await stream.receive()
        await asyncio.sleep(0.05)
        raise InvalidArgument("not an image archive")

    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    async with play(script) as (client, peer):
        with pytest.raises(InvalidArgument, match="not an image archive"):
            await client.import_archive(io.BytesIO(bytes(100_000)), base_name="base")
        peer.cancelled = False
        with pytest.raises(OSError, match="Input/output error"):
            await client.import_archive(Broken(), base_name="base")  # type: ignore[arg-type]
        await _until(lambda: peer.cancelled)


async def test_an_import_of_a_pipe_can_be_called_off_while_nothing_comes(play: Play) -> None:
    begun = asyncio.Event()

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        await peer.streams[source.stream].send(transfer_pb2.WindowUpdate(update=1000))
        begun.set()
        await asyncio.Event().wait()

    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as source, open(writer, "wb"):
        async with play(script) as (client, peer):
            importing = asyncio.create_task(client.import_archive(source, base_name="base"))
            await begun.wait()
            await asyncio.sleep(0.05)
            importing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await importing
            await _until(lambda: peer.cancelled)


@pytest.mark.parametrize("piece", [32 << 10, 1 << 20])
@pytest.mark.parametrize("closes", [True, False])
async def test_export(play: Play, piece: int, closes: bool) -> None:
    data = os.urandom(9_000_000) + bytes(1024)

    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[destination.stream]
        window = at = 0
        while at < len(data):
            if window <= 0:
                update = await stream.receive()
                window += update.update
            size = min(piece, window)
            await stream.send(transfer_pb2.Data(data=data[at : at + size]))
            at += size
            window -= size
        if not closes:
            del peer.streams[destination.stream]  # it stays open, as containerd's may
        assert source.name == "one"
        assert [reference.name for reference in source.extra_references] == ["two"]

    class Slow(io.BytesIO):
        """Takes a part of what it is given."""

        def write(self, data: Any) -> int:
            return super().write(data[:100_000])

    destination = Slow()
    async with play(script) as (client, _peer):
        await client.export(["one", "two", "one"], destination)
    assert destination.getvalue() == data


async def test_an_export_that_stops_short_is_told(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        stream = peer.streams[destination.stream]
        await stream.receive()
        await stream.send(transfer_pb2.Data(data=b"x" * 5000))

    async with play(script) as (client, _peer):
        with pytest.raises(DataLoss, match="has no end"):
            await client.export(["one"], io.BytesIO())


async def test_a_destination_that_is_full(play: Play) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        await peer.streams[destination.stream].send(transfer_pb2.Data(data=bytes(1000)))
        await asyncio.Event().wait()

    async with play(script) as (client, peer):
        with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
            await client.export(["one"], full)
        await _until(lambda: peer.cancelled)


@pytest.mark.parametrize("transport", _TRANSPORTS)
async def test_a_daemon_without_the_services(transport: str, tmp_path: Path) -> None:
    async def script(source: Any, destination: Any, peer: Peer) -> None:
        raise AssertionError

    services = [service for service in Peer(script).services() if "Lease" in service.descriptor.name]
    source = io.BytesIO(b"not read")
    async with _TRANSPORTS[transport](f"{tmp_path}/s", services) as channel:
        client = Transferrer(channel, "ns")
        for call in (client.import_archive(source, base_name="base"), client.pull(REFERENCE), client.push("a")):
            with pytest.raises(Unimplemented):
                await call
    assert source.tell() == 0


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)

"""Our client and channels with Go's servers: Debian's shim and Debian's containerd."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.command import run
from tests.harness.daemon import Containerd
from tests.harness.names import unique
from wherry.api.runtime.task.v2 import task_pb2
from wherry.api.services.events.ttrpc.v1 import events_pb2 as ttrpc_events
from wherry.api.services.events.v1 import events_pb2
from wherry.api.services.version.v1 import version_pb2
from wherry.api.types import types_pb2
from wherry.api.types.task import task_pb2 as task_types
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import Error, InvalidArgument, NotFound, Unavailable, Unimplemented
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.channel import Stub
from wherry.rpc.context import CallContext, metadata_for
from wherry.rpc.grpc_channel import BlockingGrpcChannel, GrpcChannel
from wherry.rpc.service import Method, Service
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.rpc.ttrpc_server import TtrpcServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

TASK = task_pb2.DESCRIPTOR.services_by_name["Task"]
VERSION = version_pb2.DESCRIPTOR.services_by_name["Version"]


class Container:
    """A container of Debian's containerd, running `sleep`, and the socket of its shim."""

    def __init__(self, id: str, namespace: str, address: str, pid: int) -> None:
        self.id = id
        self.namespace = namespace
        self.address = address
        self.pid = pid


@pytest.fixture
def container(containerd: Containerd, busybox_rootfs: Path, tmp_path: Path) -> Container:
    namespace, id = containerd.namespace(), containerd.id()
    rootfs = tmp_path / "rootfs"
    with tarfile.open(busybox_rootfs) as archive:
        archive.extractall(rootfs)
    containerd.ctr(
        "run", "-d", "--null-io", "--rootfs", rootfs, id, "/bin/busybox", "sleep", "1000", namespace=namespace
    ).check()
    bundle = containerd.state / "io.containerd.runtime.v2.task" / namespace / id
    address = (bundle / "address").read_text().removeprefix("unix://")
    return Container(id, namespace, address, int((bundle / "init.pid").read_text()))


async def test_calls_to_a_go_shim(container: Container) -> None:
    channel = await TtrpcChannel.connect(container.address)
    shim = Stub(channel, TASK)
    metadata = metadata_for(container.namespace)
    connected = await shim.connect(task_pb2.ConnectRequest(id=container.id), metadata=metadata)
    assert connected.task_pid == container.pid and connected.shim_pid
    state = await shim.state(task_pb2.StateRequest(id=container.id), metadata=metadata)
    assert (state.pid, state.status, state.id) == (container.pid, task_types.RUNNING, container.id)
    with pytest.raises(NotFound):
        await shim.state(task_pb2.StateRequest(id=container.id, exec_id="absent"), metadata=metadata)
    # Whoever gives up a Wait sends a call that Go's server does not know, and goes on.
    waiting = asyncio.ensure_future(shim.wait(task_pb2.WaitRequest(id=container.id), metadata=metadata))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    waiting = asyncio.ensure_future(shim.wait(task_pb2.WaitRequest(id=container.id), metadata=metadata))
    await shim.kill(task_pb2.KillRequest(id=container.id, signal=9), metadata=metadata)
    assert (await waiting).exit_status == 137
    deleted = await shim.delete(task_pb2.DeleteRequest(id=container.id), metadata=metadata)
    assert deleted.exit_status == 137 and deleted.pid == container.pid
    try:
        await shim.shutdown(task_pb2.ShutdownRequest(id=container.id), metadata=metadata)
    except Unavailable as error:
        assert error.message == "ttrpc: closed"
    await channel.closed
    with pytest.raises(Unavailable, match="ttrpc: closed"):
        await shim.state(task_pb2.StateRequest(id=container.id), metadata=metadata)


def test_blocking_calls_to_a_go_shim(container: Container) -> None:
    channel = BlockingTtrpcChannel.connect(container.address)
    shim = Stub(channel, TASK)
    metadata = metadata_for(container.namespace)
    state = channel.run(shim.state(task_pb2.StateRequest(id=container.id), metadata=metadata))
    assert state.pid == container.pid
    with pytest.raises(Error) as caught:
        channel.run(shim.wait(task_pb2.WaitRequest(id=container.id), metadata=metadata, timeout=0.1))
    assert caught.value.code == 4
    kill = Method(TASK.full_name, TASK.methods_by_name["Kill"])
    channel.start_unary(kill, task_pb2.KillRequest(id=container.id, signal=9), metadata=metadata)
    assert channel.run(shim.wait(task_pb2.WaitRequest(id=container.id), metadata=metadata)).exit_status == 137
    channel.run(channel.close())


async def test_unknown_services_of_a_go_server(containerd: Containerd) -> None:
    channel = await TtrpcChannel.connect(containerd.address + ".ttrpc")
    with pytest.raises(Unimplemented) as caught:
        await Stub(channel, VERSION).version(Empty())
    assert caught.value.message == "service containerd.services.version.v1.Version"
    # The connection goes on, and the service that is there answers.
    events = Stub(channel, ttrpc_events.DESCRIPTOR.services_by_name["Events"])
    envelope = types_pb2.Envelope(namespace="a--b", topic="/x")
    with pytest.raises(InvalidArgument):
        await events.forward(ttrpc_events.ForwardRequest(envelope=envelope))
    await channel.close()


async def test_grpc_with_containerd(containerd: Containerd) -> None:
    channel = GrpcChannel(containerd.address)
    version = await Stub(channel, VERSION).version(Empty())
    assert version.version.startswith("1.")
    shim_service = Stub(channel, TASK)
    with pytest.raises(Unimplemented) as caught:
        await shim_service.state(task_pb2.StateRequest(id="x"))
    assert caught.value.message == "unknown service containerd.task.v2.Task"
    await channel.close()


async def test_a_stream_from_containerd(containerd: Containerd) -> None:
    channel = GrpcChannel(containerd.address)
    events = Stub(channel, events_pb2.DESCRIPTOR.services_by_name["Events"])
    namespace = containerd.namespace()
    stream = events.subscribe(events_pb2.SubscribeRequest(filters=[f"namespace=={namespace}"]))
    first = asyncio.ensure_future(anext(stream))
    deadline = time.monotonic() + 10
    while not first.done() and time.monotonic() < deadline:  # the subscription is there some time after the call
        await events.publish(
            events_pb2.PublishRequest(topic="/test/thing", event={"type_url": "x"}), metadata=metadata_for(namespace)
        )
        await asyncio.wait((first,), timeout=0.05)
    envelope = await first
    assert (envelope.topic, envelope.namespace) == ("/test/thing", namespace)
    await stream.aclose()
    await channel.close()


def test_blocking_grpc_with_containerd(containerd: Containerd) -> None:
    channel = BlockingGrpcChannel.connect(containerd.address)

    async def versions() -> AsyncIterator[str]:
        for _ in range(2):
            yield (await Stub(channel, VERSION).version(Empty())).version

    async def all_of_them() -> list[str]:
        return [version async for version in versions()]

    first, second = channel.run(all_of_them())
    assert first == second
    channel.run(channel.close())


async def test_a_go_client_of_our_server() -> None:
    """`ctr shim` finds a shim's socket by the daemon's address, and speaks ttrpc with whoever serves there."""

    class TaskService(Service):
        descriptor = TASK

        async def state(self, request: Any, context: CallContext) -> Any:
            if request.exec_id:
                raise NotFound(f"process {request.exec_id}")
            return task_pb2.StateResponse(id=request.id, pid=os.getpid(), stdout=context.namespace_or_empty or "none")

    address, namespace, id = f"/nowhere/{unique('s')}", unique("t"), unique("c")
    directory = Path("/run/containerd/s")
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = directory / hashlib.sha256(f"{address}/{namespace}/{id}".encode()).hexdigest()
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    server = TtrpcServer([TaskService()])
    serving = asyncio.ensure_future(server.serve(sock))
    ctr = ["ctr", "--address", address, "--namespace", namespace, "shim", "--id", id]
    try:
        state = await asyncio.to_thread(run, [*ctr, "state"])
        assert f'"pid": {os.getpid()}' in state.check().text and '"stdout": "none"' in state.text
        # An RPC that is not there must be an answer, and the reason must arrive.
        started = await asyncio.to_thread(run, [*ctr, "start"])
        assert started.code == 1 and "method Start" in started.error_text
    finally:
        await server.close()
        await serving
        path.unlink()

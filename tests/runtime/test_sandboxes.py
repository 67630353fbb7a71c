"""containerd.services.sandbox.v1.Controller: a shim as the sandbox of containers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Wherryd
from tests.runtime.test_survival import STOCK, gone, tasks
from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.runtime.sandbox.v1 import sandbox_pb2 as runtime
from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.events.v1 import events_pb2 as events_api
from wherry.api.services.sandbox.v1 import sandbox_pb2 as api
from wherry.api.services.tasks.v1 import tasks_pb2
from wherry.api.types.types_pb2 import Mount, Sandbox
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unknown,
)
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel

RUNC = "io.containerd.runc.v2"
STARTED = str(COMMANDS / "containerd-shim-wherry-v2")

#: A container that waits, and ends with 7 when it is asked to.
_WAITS = "trap 'exit 7' TERM; while :; do sleep 0.05; done"


class Client:
    """Sandboxes and containers of one namespace."""

    def __init__(self, daemon: Wherryd, namespace: str = "") -> None:
        self.daemon = daemon
        self.namespace = namespace or daemon.namespace()
        self.metadata = metadata_for(self.namespace)
        self.channel = GrpcChannel(daemon.address)

    def stub(self, module: Any, service: str) -> Stub:
        return Stub(self.channel, module.DESCRIPTOR.services_by_name[service])

    async def call(self, method: str, id: str, **fields: Any) -> Any:
        """Call the controller of shims."""
        request = getattr(api, f"Controller{method.capitalize()}Request")
        fields.setdefault("sandboxer", "shim")
        stub = self.stub(api, "Controller")
        return await getattr(stub, method)(request(sandbox_id=id, **fields), metadata=self.metadata)

    async def create(self, id: str, runtime_name: str = RUNC, **fields: Any) -> Any:
        return await self.call("create", id, sandbox=Sandbox(sandbox_id=id, runtime={"name": runtime_name}), **fields)

    async def run(self, runtime_name: str = RUNC) -> tuple[str, int]:
        """Create and start a sandbox; returns its id and pid."""
        id = self.daemon.id("s")
        await self.create(id, runtime_name)
        return id, (await self.call("start", id)).pid

    async def container(
        self, sandbox: str = "", *, script: str = _WAITS, layered: bool = False, **fields: Any
    ) -> tuple[str, int]:
        """Run a container, of a sandbox if one is named; returns its id and pid.

        With `layered`, of mounts that the daemon has to put together.
        """
        id = self.daemon.id()
        # ctr 1.6 knows no sandboxes: its record again, with one. Its snapshot always belongs to one of the two.
        words = ("containers", "create", "--", BUSYBOX, f"{id}t", "sh", "-c", script)
        made = await asyncio.to_thread(self.daemon.ctr, *words, namespace=self.namespace)
        made.check()
        containers = self.stub(containers_pb2, "Containers")
        found = await containers.get(containers_pb2.GetContainerRequest(id=f"{id}t"), metadata=self.metadata)
        record = found.container
        record.id = id
        record.sandbox = sandbox
        await containers.create(containers_pb2.CreateContainerRequest(container=record), metadata=self.metadata)
        await containers.delete(containers_pb2.DeleteContainerRequest(id=f"{id}t"), metadata=self.metadata)
        service = self.stub(tasks_pb2, "Tasks")
        snapshot = await asyncio.to_thread(
            self.daemon.ctr, "snapshots", "mounts", "/mnt", record.snapshot_key, namespace=self.namespace
        )
        options = snapshot.text.split()[snapshot.text.split().index("-o") + 1].split(",")
        rootfs = [Mount(type="overlay", source="overlay", options=options)]
        if layered:
            lower = next(each for each in options if each.startswith("lowerdir=")).removeprefix("lowerdir=").split(":")
            rest = [each for each in options if not each.startswith("lowerdir=")]
            rootfs = [Mount(type="bind", source=each, options=["rbind", "ro"]) for each in lower]
            overlay = f"lowerdir={{{{ overlay 0 {len(lower) - 1} }}}}"
            rootfs.append(Mount(type="format/overlay", source="overlay", options=[overlay, *rest]))
        request = tasks_pb2.CreateTaskRequest(container_id=id, rootfs=rootfs, **fields)
        try:
            pid = (await service.create(request, metadata=self.metadata)).pid
            await service.start(tasks_pb2.StartRequest(container_id=id), metadata=self.metadata)
        except Error:
            await containers.delete(containers_pb2.DeleteContainerRequest(id=id), metadata=self.metadata)
            raise
        return id, pid

    async def remove(self, id: str) -> int:
        """Kill a container's task and delete it; returns its status."""
        service = self.stub(tasks_pb2, "Tasks")
        await service.kill(tasks_pb2.KillRequest(container_id=id, signal=9), metadata=self.metadata)
        await service.wait(tasks_pb2.WaitRequest(container_id=id), metadata=self.metadata)
        response = await service.delete(tasks_pb2.DeleteTaskRequest(container_id=id), metadata=self.metadata)
        return int(response.exit_status)

    def shims(self) -> list[int]:
        return sorted(int(line.split()[0]) for line in leaks.processes(self.namespace) if " -id " in line)

    async def only(self, *shims: int) -> None:
        """Wait until there are no other shims: a container's init looks like its own until it is another program."""
        await self.until(lambda: self.shims() == sorted(shims), f"only {shims}")

    async def one(self) -> int:
        """Return the pid of the one shim."""
        await self.until(lambda: len(self.shims()) == 1, "one shim")
        return self.shims()[0]

    async def until(self, condition: Any, what: str) -> None:
        for _ in range(600):
            if condition():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never {what}")

    @asynccontextmanager
    async def events(self) -> AsyncIterator[list[tuple[str, Any]]]:
        """Collect the namespace's events of sandboxes and of tasks' ends."""
        heard: list[tuple[str, Any]] = []
        ready = asyncio.Event()

        async def listen() -> None:
            stub = self.stub(events_api, "Events")
            request = events_api.SubscribeRequest(filters=[f"namespace=={self.namespace}"])
            async for envelope in stub.subscribe(request):
                if envelope.topic == "/mark":
                    ready.set()
                elif envelope.topic.startswith("/sandboxes/") or envelope.topic == "/tasks/exit":
                    heard.append((envelope.topic, typeurl.unpack(envelope.event)))

        async def mark() -> None:
            ready.clear()
            while not ready.is_set():
                request = events_api.PublishRequest(topic="/mark", event=AnyMessage(type_url="x"))
                await self.stub(events_api, "Events").publish(request, metadata=self.metadata)
                await asyncio.sleep(0.02)

        listening = asyncio.create_task(listen())
        try:
            await mark()
            yield heard
            await mark()
        finally:
            listening.cancel()


@asynccontextmanager
async def opened(daemon: Wherryd, namespace: str = "") -> AsyncIterator[Client]:
    client = Client(daemon, namespace)
    try:
        yield client
    finally:
        await client.channel.close()


@pytest.fixture
async def client(wherryd: Wherryd, busybox_archive: Path) -> AsyncIterator[Client]:
    async with opened(wherryd) as made:
        wherryd.ctr("images", "import", busybox_archive, namespace=made.namespace).check()
        yield made


@pytest.mark.parametrize("kind", ["forked", "started", "foreign"])
async def test_a_life(client: Client, kind: str, tmp_path: Path) -> None:
    runtime_name = {"forked": RUNC, "started": STARTED, "foreign": str(_foreign(tmp_path))}[kind]
    id = client.daemon.id("s")
    async with client.events() as heard:
        options = AnyMessage(type_url="anything", value=b"\1")
        made = await client.create(id, runtime_name, netns_path="/run/netns/x", annotations={"a": "b"}, options=options)
        assert made.sandbox_id == id
        shim = await client.one()
        status = await client.call("status", id)
        assert (status.sandbox_id, status.pid, status.state) == (id, shim, "SANDBOX_NOTREADY")
        started = await client.call("start", id)
        socket = leaks.shim_socket(client.daemon.address, client.namespace, id)
        assert (started.sandbox_id, started.pid, started.version) == (id, shim, 3)
        assert started.address == f"ttrpc+unix://{socket}"
        status = await client.call("status", id, verbose=True)
        assert status.state == "SANDBOX_READY" and status.created_at == started.created_at
        assert (status.address, status.version, status.extra) == (started.address, 3, options)
        assert not status.HasField("exited_at") or not status.exited_at.seconds
        assert status.info["netns_path"] == "/run/netns/x"
        assert json.loads(status.info["annotations"]) == {"a": "b"}
        assert not (await client.call("status", id)).info
        platform = (await client.call("platform", id)).platform
        assert platform.os == "linux" and platform.architecture == subprocess.getoutput("dpkg --print-architecture")
        assert (await client.call("metrics", id)).metrics.id == id
        await client.call("update", id, sandbox=Sandbox(sandbox_id=id), fields=["labels"])
        waiting = asyncio.gather(*(client.call("wait", id) for _ in range(3)))
        await client.call("stop", id)
        (ended, *others) = await waiting
        assert ended.exit_status == 0 and ended.exited_at.seconds and others == [ended, ended]
        status = await client.call("status", id)
        assert status.state == "SANDBOX_NOTREADY" and status.exited_at == ended.exited_at
        assert await client.call("wait", id) == ended
        await client.call("stop", id)
        await client.call("shutdown", id)
        await client.only()
    assert heard == [
        ("/sandboxes/create", events_pb2.SandboxCreate(sandbox_id=id)),
        ("/sandboxes/start", events_pb2.SandboxStart(sandbox_id=id)),
        ("/sandboxes/exit", events_pb2.SandboxExit(sandbox_id=id, exit_status=0, exited_at=ended.exited_at)),
    ]
    # What is not there has ended; there is nothing to stop, and nothing to shut down.
    assert (await client.call("status", id)).exited_at.seconds
    await client.call("stop", id)
    for method in ("shutdown", "wait", "platform", "metrics"):
        with pytest.raises(NotFound):
            await client.call(method, id)


def _foreign(directory: Path) -> Path:
    """Our shim under a name that makes it somebody else's: one that the daemon only knows by the protocol."""
    path = directory / "containerd-shim-foreign-v1"
    path.symlink_to(STARTED)
    return path


async def test_a_foreign_shim_that_dies(client: Client, tmp_path: Path) -> None:
    sandbox, shim = await client.run(str(_foreign(tmp_path)))
    id, pid = await client.container(sandbox)
    assert _parent(pid) == shim
    async with client.events() as heard:
        os.kill(shim, signal.SIGKILL)
        await client.until(lambda: len(heard) > 1, "told of both")
    await client.until(lambda: gone(pid), "killed")
    assert [event.exit_status for topic, event in heard if topic == "/sandboxes/exit"] == [137]
    await client.only()
    client.daemon.ctr("containers", "rm", id, namespace=client.namespace).check()


async def test_refusals(client: Client) -> None:
    id, _pid = await client.run()
    with pytest.raises(AlreadyExists, match=f"^sandbox {id} already running: already exists$"):
        await client.create(id)
    with pytest.raises(FailedPrecondition, match="has been started"):
        await client.call("start", id)
    with pytest.raises(InvalidArgument, match="sandbox can not be nil"):
        await client.call("update", id)
    with pytest.raises(NotFound, match=r'^failed to start sandbox "absent": unable to find sandbox "absent"'):
        await client.call("start", "absent")
    with pytest.raises(NotFound):
        await client.call("update", "absent", sandbox=Sandbox(sandbox_id="absent"))
    for method in ("create", "start", "platform", "stop", "wait", "status", "shutdown", "metrics", "update"):
        with pytest.raises(InvalidArgument, match="sandbox controller name can not be empty"):
            await client.call(method, id, sandboxer="")
        with pytest.raises(NotFound, match="failed to get sandbox controller by podsandbox"):
            await client.call(method, id, sandboxer="podsandbox")
        request = getattr(api, f"Controller{method.capitalize()}Request")(sandbox_id=id, sandboxer="shim")
        with pytest.raises(FailedPrecondition, match="namespace is required"):
            await getattr(client.stub(api, "Controller"), method)(request)
    with pytest.raises(InvalidArgument, match="invalid sandbox ID"):
        await client.create("a/b")
    with pytest.raises(InvalidArgument, match="no runtime name"):
        await client.create("unnamed", "")
    with pytest.raises(Unknown, match=r'runtime "io\.containerd\.absent\.v1" binary not installed'):
        await client.create("unknown", "io.containerd.absent.v1")
    with pytest.raises(NotFound, match="failed to query sandbox metadata from store"):
        await client.call("create", "unrecorded")
    await client.call("stop", id)
    with pytest.raises(FailedPrecondition, match="has been stopped"):
        await client.call("start", id)
    await client.call("shutdown", id)


async def test_the_record_says_what_the_request_does_not(client: Client) -> None:
    """As for clients of containerd 1.7."""
    id = client.daemon.id("s")
    store = client.stub(api, "Store")
    record = Sandbox(sandbox_id=id, runtime={"name": RUNC}, spec=AnyMessage(type_url="s", value=b'{"ociVersion":"1"}'))
    await store.create(api.StoreCreateRequest(sandbox=record), metadata=client.metadata)
    await client.call("create", id)
    bundle = client.daemon.state / "io.containerd.sandbox.controller.v1.shim" / client.namespace / id
    assert (bundle / "config.json").read_bytes() == b'{"ociVersion":"1"}'
    await client.call("shutdown", id)
    assert not bundle.exists()


async def test_containers_are_in_the_sandboxs_shim(client: Client) -> None:
    sandbox, shim = await client.run()
    boxes = [await client.container(sandbox) for _ in range(2)]
    await client.only(shim)
    for _id, pid in boxes:
        assert _parent(pid) == shim
    bundle = client.daemon.state / "io.containerd.runtime.v2.task" / client.namespace / boxes[0][0]
    assert (bundle / "sandbox").read_text() == sandbox
    assert json.loads((bundle / "bootstrap.json").read_text())["version"] == 3
    alone = client.daemon.id()
    flags = ("run", "--detach", "--null-io", BUSYBOX, alone, "sleep", "1000")
    client.daemon.ctr(*flags, namespace=client.namespace).check()
    await client.until(lambda: len(client.shims()) == 2, "two")
    await client.remove(alone)
    said = client.daemon.ctr("tasks", "exec", "--exec-id", "e", boxes[0][0], "echo", "hi", namespace=client.namespace)
    assert said.check().text == "hi\n"
    for id, _pid in boxes:
        assert await client.remove(id) == 137
    # The sandbox goes on without containers, and takes new ones.
    await client.only(shim)
    assert (await client.call("status", sandbox)).state == "SANDBOX_READY"
    id, _pid = await client.container(sandbox)
    await client.remove(id)
    await client.call("shutdown", sandbox)


async def test_stop_ends_containers(client: Client) -> None:
    sandbox, _shim = await client.run()
    async with client.events() as heard:
        asked, _pid = await client.container(sandbox)
        deaf, _pid = await client.container(sandbox, script="trap '' TERM; sleep 1000")
        await asyncio.sleep(0.3)  # until the traps are set
        await client.call("stop", sandbox, timeout_secs=1)
    exits = {event.container_id: event.exit_status for topic, event in heard if topic == "/tasks/exit"}
    assert exits == {asked: 7, deaf: 137}
    with pytest.raises(FailedPrecondition, match="has been stopped"):
        await client.container(sandbox)
    service = client.stub(tasks_pb2, "Tasks")
    for id, status in exits.items():
        request = tasks_pb2.DeleteTaskRequest(container_id=id)
        assert (await service.delete(request, metadata=client.metadata)).exit_status == status
    await client.call("shutdown", sandbox)


async def test_shutdown_takes_containers_along(client: Client) -> None:
    sandbox, _shim = await client.run()
    boxes = [await client.container(sandbox) for _ in range(2)]
    service = client.stub(tasks_pb2, "Tasks")
    await service.pause(tasks_pb2.PauseTaskRequest(container_id=boxes[1][0]), metadata=client.metadata)
    async with client.events() as heard:
        await client.call("shutdown", sandbox)
        await client.until(lambda: not tasks(client.daemon, client.namespace), "cleaned up")
    await client.until(lambda: all(gone(pid) for _id, pid in boxes) and not client.shims(), "ended")
    assert sorted(event.container_id for topic, event in heard if topic == "/tasks/exit") == sorted(
        id for id, _pid in boxes
    )
    assert [event.exit_status for topic, event in heard if topic == "/sandboxes/exit"] == [0]


async def test_a_dead_shim_takes_its_sandbox_along(client: Client) -> None:
    sandbox, shim = await client.run()
    id, pid = await client.container(sandbox)
    waiting = asyncio.create_task(client.call("wait", sandbox))
    async with client.events() as heard:
        os.kill(shim, signal.SIGKILL)
        assert (await waiting).exit_status == 137
        await client.until(lambda: len(heard) > 1, "told of both")
    await client.until(lambda: gone(pid), "killed")
    assert [event.exit_status for topic, event in heard if topic == "/sandboxes/exit"] == [137]
    assert [event.container_id for topic, event in heard if topic == "/tasks/exit"] == [id]
    again = client.daemon.id("s")
    await client.create(again)
    with pytest.raises(Unknown, match=f"can't find sandbox {sandbox}"):
        await client.container(sandbox)
    await client.call("shutdown", again)


async def test_a_sandbox_outlives_the_daemon(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    daemon = start_daemon(Wherryd())
    async with opened(daemon) as client:
        daemon.ctr("images", "import", busybox_archive, namespace=client.namespace).check()
        kept, shim = await client.run()
        box, pid = await client.container(kept)
        stopped, _pid = await client.run()
        await client.call("stop", stopped)
        ended = await client.call("wait", stopped)
        created = daemon.id("s")
        await client.create(created)
        dead, doomed = await client.run()
        namespace = client.namespace
    daemon.kill()
    os.kill(doomed, signal.SIGKILL)
    # As if it had been killed before its shim was there.
    bundle = daemon.state / "io.containerd.sandbox.controller.v1.shim" / namespace / "half"
    (bundle / "rootfs").mkdir(parents=True)
    daemon.start()
    async with opened(daemon, namespace) as client:
        assert not bundle.exists()
        status = await client.call("status", kept)
        assert (status.pid, status.state) == (shim, "SANDBOX_READY")
        assert await client.call("wait", stopped) == ended
        assert not (await client.call("status", dead)).pid
        assert (await client.call("start", created)).pid
        async with client.events() as heard:
            other, _pid = await client.container(kept)
            assert _parent(pid) == shim
            await client.remove(other)
            await client.remove(box)
            waiting = asyncio.create_task(client.call("wait", kept))
            for id in (kept, stopped, created):
                await client.call("shutdown", id)
            assert (await waiting).exit_status == 0
        exits = [event.sandbox_id for topic, event in heard if topic == "/sandboxes/exit"]
        assert exits == [kept, created]  # what had been told before is not told again
        await client.only()


async def test_a_daemon_killed_at_any_moment(start_daemon: StartDaemon) -> None:
    """What was half made is gone; what was made is there, and can be shut down."""
    daemon = start_daemon(Wherryd())
    namespace = daemon.namespace()
    ids = [daemon.id("s") for _ in range(4)]

    async def use(client: Client, id: str) -> None:
        with contextlib.suppress(Error):
            while True:
                with contextlib.suppress(AlreadyExists):
                    await client.create(id)
                with contextlib.suppress(FailedPrecondition):
                    await client.call("start", id)
                await client.call("shutdown", id)

    for delay in (0.02, 0.05, 0.1, 0.2, 0.3):
        async with opened(daemon, namespace) as client:
            using = asyncio.gather(*(use(client, id) for id in ids))
            await asyncio.sleep(delay)
            daemon.kill()
            await using
        daemon.start()
    async with opened(daemon, namespace) as client:
        for id in ids:
            state = (await client.call("status", id)).state
            assert state in ("", "SANDBOX_READY", "SANDBOX_NOTREADY")
            if state:
                await client.call("shutdown", id)
        await client.only()


async def test_many_at_once(client: Client) -> None:
    ids = [client.daemon.id("s") for _ in range(8)]
    made = await asyncio.gather(*(client.create(id) for id in (*ids, *ids)), return_exceptions=True)
    assert sum(isinstance(each, AlreadyExists) for each in made) == 8
    assert sum(isinstance(each, api.ControllerCreateResponse) for each in made) == 8
    await asyncio.gather(*(client.call("start", id) for id in ids))
    assert len(client.shims()) == 8
    boxes = await asyncio.gather(*(client.container(ids[index % 2]) for index in range(4)))
    await client.until(lambda: len(client.shims()) == 8, "eight")
    await asyncio.gather(*(client.remove(id) for id, _pid in boxes))
    await asyncio.gather(*(client.call("shutdown", id) for id in ids))
    await client.only()


async def test_tasks_and_sandboxes_share_their_ids(client: Client) -> None:
    sandbox, _shim = await client.run()
    taken = client.daemon.ctr("run", "--rm", BUSYBOX, sandbox, "true", namespace=client.namespace)
    assert f"task {sandbox}: already exists" in taken.error_text
    id, _pid = await client.container(sandbox)
    with pytest.raises(AlreadyExists, match=f"sandbox {id} already running"):
        await client.create(id)
    await client.remove(id)
    await client.call("shutdown", sandbox)


async def test_a_sandbox_by_its_address(client: Client) -> None:
    """As a client asks that has a sandbox of some other controller's."""
    sandbox, shim = await client.run()
    address = (await client.call("status", sandbox)).address
    id, pid = await client.container(f"{sandbox}x", task_api_address=address, task_api_version=3)
    assert _parent(pid) == shim
    await client.remove(id)
    with pytest.raises(Unknown, match="the scheme of sandbox address should be in the form of"):
        await client.container(sandbox, task_api_address="/run/x")
    with pytest.raises(Unimplemented, match="grpc"):
        await client.container(sandbox, task_api_address="grpc+vsock://3:1024")
    with pytest.raises(Error, match="failed to load sandbox task"):
        await client.container(sandbox, task_api_address="ttrpc+unix:///absent", task_api_version=3)
    await client.only(shim)
    await client.call("shutdown", sandbox)


async def test_a_container_as_sandbox(client: Client) -> None:
    """As Kubernetes' pause container: the others are in its shim, which ends with the last of them."""
    pause = client.daemon.id()
    flags = ("run", "--detach", "--null-io", BUSYBOX, pause, "sleep", "1000")
    client.daemon.ctr(*flags, namespace=client.namespace).check()
    shim = await client.one()
    id, pid = await client.container(pause)
    await client.only(shim)
    assert _parent(pid) == shim
    await client.remove(pause)
    await client.only(shim)
    await client.remove(id)
    await client.only()


async def test_no_shim(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    """A daemon that is itself the shim of its containers has shims for sandboxes."""
    daemon = start_daemon(Wherryd(config="no_shim = true\n"))
    async with opened(daemon) as client:
        daemon.ctr("images", "import", busybox_archive, namespace=client.namespace).check()
        sandbox, shim = await client.run()
        id, pid = await client.container(sandbox)
        assert _parent(pid) == shim
        await client.remove(id)
        alone, pid = await client.container()
        assert _parent(pid) == daemon.pid
        assert await client.remove(alone) == 137
        await client.call("shutdown", sandbox)


async def test_a_shim_without_the_service(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(Wherryd(config=STOCK))
    async with opened(daemon) as client:
        id = daemon.id("s")
        with pytest.raises(Unimplemented, match=f"^failed to create sandbox {id}: service containerd.runtime.sandbox"):
            await client.create(id)
        await client.only()
        assert not (await client.call("status", id)).pid


async def test_the_shims_own_service(client: Client) -> None:
    """containerd.runtime.sandbox.v1 over ttrpc, as other daemons speak it."""
    sandbox, _shim = await client.run()
    channel = await TtrpcChannel.connect(str(leaks.shim_socket(client.daemon.address, client.namespace, sandbox)))
    stub = Stub(channel, runtime.DESCRIPTOR.services_by_name["Sandbox"])
    await stub.ping_sandbox(runtime.PingRequest(sandbox_id=sandbox))
    with pytest.raises(AlreadyExists, match=sandbox):
        await stub.create_sandbox(runtime.CreateSandboxRequest(sandbox_id="other"))
    for method, request in (
        ("start_sandbox", runtime.StartSandboxRequest),
        ("platform", runtime.PlatformRequest),
        ("stop_sandbox", runtime.StopSandboxRequest),
        ("wait_sandbox", runtime.WaitSandboxRequest),
        ("sandbox_status", runtime.SandboxStatusRequest),
        ("ping_sandbox", runtime.PingRequest),
        ("shutdown_sandbox", runtime.ShutdownSandboxRequest),
        ("sandbox_metrics", runtime.SandboxMetricsRequest),
    ):
        with pytest.raises(NotFound, match=r'^sandbox "absent": not found$'):
            await getattr(stub, method)(request(sandbox_id="absent"))
    await channel.close()
    await client.call("shutdown", sandbox)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def _activations(client: Client) -> list[str]:
    """What the mount manager has mounted."""
    place = client.daemon.state / "io.containerd.mount-manager.v1.bolt/t"
    return [line.split()[4] for line in leaks.mounts() if f"{place}/" in line] + [
        str(path) for path in leaks.entries(place)
    ]


async def test_a_root_file_system_that_the_daemon_puts_together(client: Client) -> None:
    """As from a snapshotter whose mounts only containerd's mount manager can make."""
    id, pid = await client.container(layered=True)
    assert len(_activations(client)) > 1
    said = client.daemon.ctr("tasks", "exec", "--exec-id", "e", id, "cat", "/etc/passwd", namespace=client.namespace)
    assert said.check().text
    taken = tasks_pb2.CreateTaskRequest(container_id=id, rootfs=[Mount(type="format/bind", source="/")])
    with pytest.raises(AlreadyExists):
        await client.stub(tasks_pb2, "Tasks").create(taken, metadata=client.metadata)
    assert len(_activations(client)) > 1 and not gone(pid)
    await client.remove(id)
    assert _activations(client) == []
    with pytest.raises(InvalidArgument, match="index out of bounds"):
        await client.stub(tasks_pb2, "Tasks").create(
            tasks_pb2.CreateTaskRequest(container_id=id, rootfs=[Mount(type="format/bind", source="{{ mount 0 }}")]),
            metadata=client.metadata,
        )
    with pytest.raises(Error, match="failed to create shim task"):
        await client.container(
            layered=True, options=AnyMessage(type_url="containerd.runc.v1.Options", value=b"\x32\x01/")
        )
    assert _activations(client) == [] and client.shims() == []


async def test_a_dead_shims_root_file_system_goes(client: Client) -> None:
    id, _pid = await client.container(layered=True)
    shim = await client.one()
    async with client.events() as heard:
        os.kill(shim, signal.SIGKILL)
        await client.until(lambda: heard, "told")
    assert _activations(client) == []
    client.daemon.ctr("containers", "rm", id, namespace=client.namespace).check()


async def test_a_root_file_system_outlives_the_daemon(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    daemon = start_daemon(Wherryd())
    async with opened(daemon) as client:
        daemon.ctr("images", "import", busybox_archive, namespace=client.namespace).check()
        id, _pid = await client.container(layered=True)
        before = _activations(client)
    daemon.kill()
    daemon.start()
    async with opened(daemon, client.namespace) as client:
        await asyncio.sleep(0.5)  # the first collection has been
        assert _activations(client) == before
        await client.remove(id)
        assert _activations(client) == []

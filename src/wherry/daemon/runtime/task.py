"""Tasks as the daemon sees them: requests to a shim, in runtime v1's words or in v2's and v3's."""

from __future__ import annotations

from typing import Any, Protocol

from wherry.api import typeurl
from wherry.api.runtime.linux.shim.v1 import shim_pb2 as shim_v1
from wherry.api.runtime.task.v2 import task_pb2 as task_v2
from wherry.api.runtime.task.v3 import task_pb2 as task_v3
from wherry.api.types import types_pb2
from wherry.api.types.task import task_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import Empty, Timestamp
from wherry.errors import Error, NotFound, Unimplemented
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.shim import metrics

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.rpc.channel import Channel

#: Seconds for each call to a shim, so that one that is stopped holds up nobody for ever: for those that a healthy shim
#: answers at once; for those that it hands to the OCI runtime; and for those that wait for hooks, for images of CRIU's,
#: or for the end of a container's output. Wait alone has none: it lasts as long as the process.
STATE_TIMEOUT = 2.0
CONNECT_TIMEOUT = 5.0
RUNTIME_TIMEOUT = 30.0
LIFE_TIMEOUT = 120.0
CHECKPOINT_TIMEOUT = 600.0


class CreateRequest:
    """What a shim is asked to create."""

    def __init__(
        self,
        rootfs: list[types_pb2.Mount],
        stdin: str,
        stdout: str,
        stderr: str,
        terminal: bool,
        checkpoint: str,
        options: AnyMessage | None,
        runtime: str = "",
        sandbox: str = "",
        sandbox_address: str = "",
        sandbox_version: int = 0,
    ) -> None:
        self.rootfs = rootfs
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal
        self.checkpoint = checkpoint
        self.options = options
        #: The OCI runtime's binary; runtime v1 only.
        self.runtime = runtime
        #: The sandbox that the container belongs to, or "".
        self.sandbox = sandbox
        #: Where the sandbox's Task service is, as ``ttrpc+unix://PATH``, and its version; "" if the daemon knows.
        self.sandbox_address = sandbox_address
        self.sandbox_version = sandbox_version


class ExitStatus:
    """How a process ended."""

    __slots__ = ("exited_at", "pid", "status")

    def __init__(self, status: int, exited_at: Timestamp, pid: int = 0) -> None:
        self.status = status
        self.exited_at = exited_at
        self.pid = pid


class ShimClient(Protocol):
    """A shim's interface, whatever its version."""

    async def connect(self, id: str) -> int:
        """Return the shim's pid."""

    async def create(self, id: str, bundle: str, request: CreateRequest) -> int: ...
    async def start(self, id: str, exec_id: str) -> int: ...
    async def state(self, id: str, exec_id: str) -> task_pb2.Process: ...
    async def delete(self, id: str, exec_id: str) -> ExitStatus: ...
    async def wait(self, id: str, exec_id: str) -> ExitStatus: ...
    async def kill(self, id: str, exec_id: str, signal: int, all: bool) -> None: ...
    async def exec(
        self, id: str, exec_id: str, spec: AnyMessage, stdin: str, stdout: str, stderr: str, terminal: bool
    ) -> None: ...
    async def pids(self, id: str) -> list[task_pb2.ProcessInfo]: ...
    async def pause(self, id: str) -> None: ...
    async def resume(self, id: str) -> None: ...
    async def resize(self, id: str, exec_id: str, width: int, height: int) -> None: ...
    async def close_io(self, id: str, exec_id: str, stdin: bool) -> None: ...
    async def checkpoint(self, id: str, path: str, options: AnyMessage) -> None: ...
    async def update(self, id: str, resources: AnyMessage, annotations: dict[str, str]) -> None: ...
    async def stats(self, id: str) -> AnyMessage | None:
        """Return the figures; None if the shim cannot tell."""

    async def shutdown(self, id: str) -> None: ...


class V2Client:
    """containerd.task.v2 and v3."""

    def __init__(self, channel: Channel, namespace: str, version: int) -> None:
        self._channel = channel
        self._metadata = metadata_for(namespace)
        self._speak(version)

    def _speak(self, version: int) -> None:
        self.version = version
        self._messages: Any = task_v3 if version >= 3 else task_v2
        self._stub = Stub(self._channel, self._messages.DESCRIPTOR.services_by_name["Task"])

    async def connect(self, id: str) -> int:
        request = self._messages.ConnectRequest(id=id)
        try:
            response = await self._stub.connect(request, metadata=self._metadata, timeout=CONNECT_TIMEOUT)
        except Unimplemented:
            # Stock shims serve one of the two names: 1.x's the old one whatever they were started with.
            self._speak(2 if self.version >= 3 else 3)
            response = await self._stub.connect(
                self._messages.ConnectRequest(id=id), metadata=self._metadata, timeout=CONNECT_TIMEOUT
            )
        pid: int = response.shim_pid
        return pid

    async def create(self, id: str, bundle: str, request: CreateRequest) -> int:
        message = self._messages.CreateTaskRequest(
            id=id,
            bundle=bundle,
            rootfs=request.rootfs,
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            checkpoint=request.checkpoint,
            options=request.options,
        )
        pid: int = (await self._stub.create(message, metadata=self._metadata, timeout=LIFE_TIMEOUT)).pid
        return pid

    async def start(self, id: str, exec_id: str) -> int:
        request = self._messages.StartRequest(id=id, exec_id=exec_id)
        pid: int = (await self._stub.start(request, metadata=self._metadata, timeout=LIFE_TIMEOUT)).pid
        return pid

    async def state(self, id: str, exec_id: str) -> task_pb2.Process:
        request = self._messages.StateRequest(id=id, exec_id=exec_id)
        response = await self._stub.state(request, metadata=self._metadata, timeout=STATE_TIMEOUT)
        return _process(response, exec_id or id)

    async def delete(self, id: str, exec_id: str) -> ExitStatus:
        response = await self._stub.delete(
            self._messages.DeleteRequest(id=id, exec_id=exec_id), metadata=self._metadata, timeout=LIFE_TIMEOUT
        )
        return ExitStatus(response.exit_status, response.exited_at, response.pid)

    async def wait(self, id: str, exec_id: str) -> ExitStatus:
        response = await self._stub.wait(self._messages.WaitRequest(id=id, exec_id=exec_id), metadata=self._metadata)
        return ExitStatus(response.exit_status, response.exited_at)

    async def kill(self, id: str, exec_id: str, signal: int, all: bool) -> None:
        request = self._messages.KillRequest(id=id, exec_id=exec_id, signal=signal, all=all)
        await self._stub.kill(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def exec(
        self, id: str, exec_id: str, spec: AnyMessage, stdin: str, stdout: str, stderr: str, terminal: bool
    ) -> None:
        request = self._messages.ExecProcessRequest(
            id=id, exec_id=exec_id, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr, spec=spec
        )
        await self._stub.exec(request, metadata=self._metadata, timeout=LIFE_TIMEOUT)

    async def pids(self, id: str) -> list[task_pb2.ProcessInfo]:
        response = await self._stub.pids(
            self._messages.PidsRequest(id=id), metadata=self._metadata, timeout=CONNECT_TIMEOUT
        )
        return list(response.processes)

    async def pause(self, id: str) -> None:
        await self._stub.pause(self._messages.PauseRequest(id=id), metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def resume(self, id: str) -> None:
        await self._stub.resume(self._messages.ResumeRequest(id=id), metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def resize(self, id: str, exec_id: str, width: int, height: int) -> None:
        request = self._messages.ResizePtyRequest(id=id, exec_id=exec_id, width=width, height=height)
        await self._stub.resize_pty(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def close_io(self, id: str, exec_id: str, stdin: bool) -> None:
        request = self._messages.CloseIORequest(id=id, exec_id=exec_id, stdin=stdin)
        await self._stub.close_io(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def checkpoint(self, id: str, path: str, options: AnyMessage) -> None:
        request = self._messages.CheckpointTaskRequest(id=id, path=path, options=options)
        await self._stub.checkpoint(request, metadata=self._metadata, timeout=CHECKPOINT_TIMEOUT)

    async def update(self, id: str, resources: AnyMessage, annotations: dict[str, str]) -> None:
        request = self._messages.UpdateTaskRequest(id=id, resources=resources, annotations=annotations)
        await self._stub.update(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def stats(self, id: str) -> AnyMessage | None:
        response = await self._stub.stats(
            self._messages.StatsRequest(id=id), metadata=self._metadata, timeout=CONNECT_TIMEOUT
        )
        stats: AnyMessage = response.stats
        return stats

    async def shutdown(self, id: str) -> None:
        request = self._messages.ShutdownRequest(id=id)
        await self._stub.shutdown(request, metadata=self._metadata, timeout=3.0)


class V1Client:
    """containerd.runtime.linux.shim.v1: an id is the task's or an exec's."""

    version = 1

    def __init__(self, channel: Channel, namespace: str) -> None:
        self._stub = Stub(channel, shim_v1.DESCRIPTOR.services_by_name["Shim"])
        self._metadata = metadata_for(namespace)

    async def connect(self, id: str) -> int:
        response = await self._stub.shim_info(Empty(), metadata=self._metadata, timeout=CONNECT_TIMEOUT)
        pid: int = response.shim_pid
        return pid

    async def create(self, id: str, bundle: str, request: CreateRequest) -> int:
        message = shim_v1.CreateTaskRequest(
            id=id,
            bundle=bundle,
            runtime=request.runtime,
            rootfs=request.rootfs,
            terminal=request.terminal,
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            checkpoint=request.checkpoint,
            options=request.options,
        )
        pid: int = (await self._stub.create(message, metadata=self._metadata, timeout=LIFE_TIMEOUT)).pid
        return pid

    async def start(self, id: str, exec_id: str) -> int:
        request = shim_v1.StartRequest(id=exec_id or id)
        pid: int = (await self._stub.start(request, metadata=self._metadata, timeout=LIFE_TIMEOUT)).pid
        return pid

    async def state(self, id: str, exec_id: str) -> task_pb2.Process:
        request = shim_v1.StateRequest(id=exec_id or id)
        response = await self._stub.state(request, metadata=self._metadata, timeout=STATE_TIMEOUT)
        return _process(response, exec_id or id)

    async def delete(self, id: str, exec_id: str) -> ExitStatus:
        if exec_id:
            request = shim_v1.DeleteProcessRequest(id=exec_id)
            response = await self._stub.delete_process(request, metadata=self._metadata, timeout=LIFE_TIMEOUT)
        else:
            response = await self._stub.delete(Empty(), metadata=self._metadata, timeout=LIFE_TIMEOUT)
        return ExitStatus(response.exit_status, response.exited_at, response.pid)

    async def wait(self, id: str, exec_id: str) -> ExitStatus:
        response = await self._stub.wait(shim_v1.WaitRequest(id=exec_id or id), metadata=self._metadata)
        return ExitStatus(response.exit_status, response.exited_at)

    async def kill(self, id: str, exec_id: str, signal: int, all: bool) -> None:
        request = shim_v1.KillRequest(id=exec_id or id, signal=signal, all=all)
        await self._stub.kill(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def exec(
        self, id: str, exec_id: str, spec: AnyMessage, stdin: str, stdout: str, stderr: str, terminal: bool
    ) -> None:
        request = shim_v1.ExecProcessRequest(
            id=exec_id, terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr, spec=spec
        )
        await self._stub.exec(request, metadata=self._metadata, timeout=LIFE_TIMEOUT)

    async def pids(self, id: str) -> list[task_pb2.ProcessInfo]:
        request = shim_v1.ListPidsRequest(id=id)
        response = await self._stub.list_pids(request, metadata=self._metadata, timeout=CONNECT_TIMEOUT)
        return list(response.processes)

    async def pause(self, id: str) -> None:
        await self._stub.pause(Empty(), metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def resume(self, id: str) -> None:
        await self._stub.resume(Empty(), metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def resize(self, id: str, exec_id: str, width: int, height: int) -> None:
        request = shim_v1.ResizePtyRequest(id=exec_id or id, width=width, height=height)
        await self._stub.resize_pty(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def close_io(self, id: str, exec_id: str, stdin: bool) -> None:
        request = shim_v1.CloseIORequest(id=exec_id or id, stdin=stdin)
        await self._stub.close_io(request, metadata=self._metadata, timeout=RUNTIME_TIMEOUT)

    async def checkpoint(self, id: str, path: str, options: AnyMessage) -> None:
        request = shim_v1.CheckpointTaskRequest(path=path, options=options)
        await self._stub.checkpoint(request, metadata=self._metadata, timeout=CHECKPOINT_TIMEOUT)

    async def update(self, id: str, resources: AnyMessage, annotations: dict[str, str]) -> None:
        await self._stub.update(
            shim_v1.UpdateTaskRequest(resources=resources), metadata=self._metadata, timeout=RUNTIME_TIMEOUT
        )

    async def stats(self, id: str) -> AnyMessage | None:
        # Runtime v1's shims are not asked for figures: the daemon reads the cgroups of the container's init.
        cgroups = metrics.cgroup_paths((await self.state(id, "")).pid)
        return typeurl.pack(metrics.collect(cgroups)) if cgroups else None

    async def shutdown(self, id: str) -> None:
        """Nothing: a v1 shim is killed once its container was deleted."""


def _process(response: Any, id: str) -> task_pb2.Process:
    return task_pb2.Process(
        id=id,
        pid=response.pid,
        status=response.status,
        stdin=response.stdin,
        stdout=response.stdout,
        stderr=response.stderr,
        terminal=response.terminal,
        exit_status=response.exit_status,
        exited_at=response.exited_at if response.HasField("exited_at") else None,
    )


async def has_container(client: ShimClient, id: str) -> bool:
    """Tell whether a shim holds a container, one that has ended and waits to be deleted included."""
    try:
        if await client.pids(id):
            return True
    except NotFound:
        return False
    except Error:
        pass  # it may have ended: its state tells
    try:
        state = await client.state(id, "")
    except NotFound:
        return False
    return state.status != task_pb2.UNKNOWN


def wrap_create_error(error: Error) -> Error:
    """Return a shim's failure to create as the daemon passes it on."""
    wrapped = type(error)()
    wrapped.message = f"failed to create shim task: {error.message}"
    wrapped.args = (wrapped.message,)
    return wrapped

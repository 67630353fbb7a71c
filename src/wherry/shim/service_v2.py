"""containerd.task.v2.Task and containerd.task.v3.Task: one interface under two names."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import wherry
from wherry.api import typeurl
from wherry.api.runtime.task.v2 import task_pb2 as v2
from wherry.api.runtime.task.v3 import task_pb2 as v3
from wherry.api.wellknown_pb2 import Empty
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.shim import options
from wherry.shim.container import CreateConfig
from wherry.shim.core import Core, process_details
from wherry.shim.stdio import Stdio


class TaskService(Service):
    """containerd.task.v2.Task. Requests and responses are those of the class's own messages."""

    descriptor = v2.DESCRIPTOR.services_by_name["Task"]
    messages: ClassVar[Any] = v2

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, request: Any, context: CallContext) -> Any:
        config = CreateConfig(
            request.id,
            request.bundle,
            request.rootfs,
            Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
            request.checkpoint,
            request.parent_checkpoint,
            options.from_any(request.options),
        )
        container = await self._core.create(config)
        return self.messages.CreateTaskResponse(pid=container.init.pid)

    async def start(self, request: Any, context: CallContext) -> Any:
        return self.messages.StartResponse(pid=await self._core.start(request.id, request.exec_id))

    async def state(self, request: Any, context: CallContext) -> Any:
        container = self._core.container(request.id)
        process = container.process(request.exec_id)
        return self.messages.StateResponse(
            id=process.id,
            bundle=container.bundle,
            pid=process.pid,
            status=container.status(process),
            stdin=process.stdio.stdin,
            stdout=process.stdio.stdout,
            stderr=process.stdio.stderr,
            terminal=process.stdio.terminal,
            exit_status=process.exit_status,
            exited_at=typeurl.timestamp(process.exited_at),
            exec_id=request.exec_id,
        )

    async def delete(self, request: Any, context: CallContext) -> Any:
        process = await self._core.delete(request.id, request.exec_id)
        return self.messages.DeleteResponse(
            pid=process.pid, exit_status=process.exit_status, exited_at=typeurl.timestamp(process.exited_at)
        )

    async def pids(self, request: Any, context: CallContext) -> Any:
        container = self._core.container(request.id)
        processes = process_details(container, await container.pids(), v1=False)
        return self.messages.PidsResponse(processes=processes)

    async def pause(self, request: Any, context: CallContext) -> Empty:
        await self._core.pause(request.id)
        return Empty()

    async def resume(self, request: Any, context: CallContext) -> Empty:
        await self._core.resume(request.id)
        return Empty()

    async def checkpoint(self, request: Any, context: CallContext) -> Empty:
        await self._core.checkpoint(request.id, request.path, request.options)
        return Empty()

    async def kill(self, request: Any, context: CallContext) -> Empty:
        await self._core.kill(request.id, request.exec_id, request.signal, all=request.all)
        return Empty()

    async def exec(self, request: Any, context: CallContext) -> Empty:
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._core.exec(request.id, request.exec_id, request.spec, stdio)
        return Empty()

    async def resize_pty(self, request: Any, context: CallContext) -> Empty:
        self._core.container(request.id).process(request.exec_id).resize(request.width, request.height)
        return Empty()

    async def close_io(self, request: Any, context: CallContext) -> Empty:
        process = self._core.container(request.id).process(request.exec_id)
        if request.stdin:
            process.streams.close_stdin()
        return Empty()

    async def update(self, request: Any, context: CallContext) -> Empty:
        await self._core.update(request.id, request.resources)
        return Empty()

    async def wait(self, request: Any, context: CallContext) -> Any:
        process = await self._core.container(request.id).wait(request.exec_id)
        return self.messages.WaitResponse(
            exit_status=process.exit_status, exited_at=typeurl.timestamp(process.exited_at)
        )

    async def stats(self, request: Any, context: CallContext) -> Any:
        return self.messages.StatsResponse(stats=typeurl.pack(self._core.container(request.id).stats()))

    async def connect(self, request: Any, context: CallContext) -> Any:
        # Any id will do: a daemon asks this of a shim that has not created anything yet.
        container = self._core.containers.get(request.id)
        return self.messages.ConnectResponse(
            shim_pid=os.getpid(),
            task_pid=container.init.pid if container is not None else 0,
            version=wherry.__version__,
        )

    async def shutdown(self, request: Any, context: CallContext) -> Empty:
        self._core.shutdown()
        return Empty()


class TaskServiceV3(TaskService):
    """containerd.task.v3.Task."""

    descriptor = v3.DESCRIPTOR.services_by_name["Task"]
    messages: ClassVar[Any] = v3

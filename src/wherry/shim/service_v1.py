"""containerd.runtime.linux.shim.v1.Shim: one container a shim; an id is the container's own or an exec's."""

from __future__ import annotations

import os
from typing import Any

from wherry.api import typeurl
from wherry.api.runtime.linux.shim.v1 import shim_pb2
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, from_status
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.shim import options
from wherry.shim.container import Container, CreateConfig
from wherry.shim.core import Core, process_details
from wherry.shim.process import Process
from wherry.shim.stdio import Stdio


class ShimService(Service):
    """containerd's shim of runtime v1."""

    descriptor = shim_pb2.DESCRIPTOR.services_by_name["Shim"]

    def __init__(self, core: Core, runtime_root: str, systemd_cgroup: bool) -> None:
        self._core = core
        self._runtime_root = runtime_root
        self._systemd_cgroup = systemd_cgroup

    def _container(self) -> Container:
        for container in self._core.containers.values():
            return container
        raise FailedPrecondition("container must be created")

    def _process(self, id: str) -> Process:
        for container in self._core.containers.values():
            if id == container.id:
                return container.init
            if id in container.execs:
                return container.execs[id]
        raise NotFound(f"process {id} does not exist")

    def _exec_id(self, id: str) -> str:
        """Return what the core calls the process of an id."""
        return "" if self._process(id) is self._container().init else id

    async def create(self, request: Any, context: CallContext) -> shim_pb2.CreateTaskResponse:
        for id in self._core.containers:
            raise AlreadyExists(f"container {id}")
        runtime_options = options.from_any(request.options)
        runtime_options.binary_name = request.runtime
        runtime_options.systemd_cgroup = self._systemd_cgroup
        if self._runtime_root:
            runtime_options.root = self._runtime_root
        config = CreateConfig(
            request.id,
            request.bundle,
            request.rootfs,
            Stdio(request.stdin, request.stdout, request.stderr, request.terminal),
            request.checkpoint,
            request.parent_checkpoint,
            runtime_options,
        )
        container = await self._core.create(config)
        return shim_pb2.CreateTaskResponse(pid=container.init.pid)

    async def start(self, request: Any, context: CallContext) -> shim_pb2.StartResponse:
        exec_id = self._exec_id(request.id)
        pid = await self._core.start(self._container().id, exec_id)
        return shim_pb2.StartResponse(id=request.id, pid=pid)

    async def state(self, request: Any, context: CallContext) -> shim_pb2.StateResponse:
        process = self._process(request.id)
        container = self._container()
        return shim_pb2.StateResponse(
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
        )

    async def delete(self, request: Empty, context: CallContext) -> shim_pb2.DeleteResponse:
        return await self._delete("")

    async def delete_process(self, request: Any, context: CallContext) -> shim_pb2.DeleteResponse:
        exec_id = self._exec_id(request.id)
        if not exec_id:
            # Go's words, which have no kind at their end.
            raise from_status(InvalidArgument.code, "cannot delete init process with DeleteProcess")
        return await self._delete(exec_id)

    async def _delete(self, exec_id: str) -> shim_pb2.DeleteResponse:
        process = await self._core.delete(self._container().id, exec_id)
        return shim_pb2.DeleteResponse(
            pid=process.pid, exit_status=process.exit_status, exited_at=typeurl.timestamp(process.exited_at)
        )

    async def list_pids(self, request: Any, context: CallContext) -> shim_pb2.ListPidsResponse:
        container = self._container()
        return shim_pb2.ListPidsResponse(processes=process_details(container, await container.pids(), v1=True))

    async def pause(self, request: Empty, context: CallContext) -> Empty:
        await self._core.pause(self._container().id)
        return Empty()

    async def resume(self, request: Empty, context: CallContext) -> Empty:
        await self._core.resume(self._container().id)
        return Empty()

    async def checkpoint(self, request: Any, context: CallContext) -> Empty:
        await self._core.checkpoint(self._container().id, request.path, request.options)
        return Empty()

    async def kill(self, request: Any, context: CallContext) -> Empty:
        exec_id = self._exec_id(request.id) if request.id else ""
        await self._core.kill(self._container().id, exec_id, request.signal, all=request.all)
        return Empty()

    async def exec(self, request: Any, context: CallContext) -> Empty:
        container = self._container()
        if request.id == container.id:
            raise AlreadyExists(f"id {request.id}")
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        await self._core.exec(container.id, request.id, request.spec, stdio)
        return Empty()

    async def resize_pty(self, request: Any, context: CallContext) -> Empty:
        self._process(request.id).resize(request.width, request.height)
        return Empty()

    async def close_io(self, request: Any, context: CallContext) -> Empty:
        process = self._process(request.id)
        if request.stdin:
            process.streams.close_stdin()
        return Empty()

    async def shim_info(self, request: Empty, context: CallContext) -> shim_pb2.ShimInfoResponse:
        return shim_pb2.ShimInfoResponse(shim_pid=os.getpid())

    async def update(self, request: Any, context: CallContext) -> Empty:
        await self._core.update(self._container().id, request.resources)
        return Empty()

    async def wait(self, request: Any, context: CallContext) -> shim_pb2.WaitResponse:
        exec_id = self._exec_id(request.id)
        process = await self._container().wait(exec_id)
        return shim_pb2.WaitResponse(exit_status=process.exit_status, exited_at=typeurl.timestamp(process.exited_at))

"""containerd.runtime.linux.shim.v1.Shim: one container a shim; an id is the container's own or an exec's."""

from __future__ import annotations

import os
from typing import Any

from wherry.api import typeurl
from wherry.api.runtime.linux.shim.v1 import shim_pb2
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import NotFound
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
        raise NotFound("container not created")

    def _process(self, id: str) -> Process:
        container = self._container()
        if id in ("", container.id):
            return container.init
        if id not in container.execs:
            raise NotFound(f"process {id} does not exist")
        return container.execs[id]

    def _exec_id(self, id: str) -> str:
        return "" if self._process(id) is self._container().init else id

    async def create(self, request: Any, context: CallContext) -> shim_pb2.CreateTaskResponse:
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
        pid = await self._core.start(self._container().id, self._exec_id(request.id))
        return shim_pb2.StartResponse(id=request.id, pid=pid)

    async def state(self, request: Any, context: CallContext) -> shim_pb2.StateResponse:
        process = self._process(request.id)
        return shim_pb2.StateResponse(
            id=process.id,
            bundle=self._container().bundle,
            pid=process.pid,
            status=process.status,
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
            raise NotFound(f"process {request.id} is the container's init: use Delete")
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
        await self._container().pause()
        return Empty()

    async def resume(self, request: Empty, context: CallContext) -> Empty:
        await self._container().resume()
        return Empty()

    async def checkpoint(self, request: Any, context: CallContext) -> Empty:
        await self._container().checkpoint(request.path, request.options)
        return Empty()

    async def kill(self, request: Any, context: CallContext) -> Empty:
        await self._container().kill(self._exec_id(request.id), request.signal, request.all)
        return Empty()

    async def exec(self, request: Any, context: CallContext) -> Empty:
        stdio = Stdio(request.stdin, request.stdout, request.stderr, request.terminal)
        self._core.exec(self._container().id, request.id, request.spec, stdio)
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
        await self._container().update(request.resources)
        return Empty()

    async def wait(self, request: Any, context: CallContext) -> shim_pb2.WaitResponse:
        process = await self._container().wait(self._exec_id(request.id))
        return shim_pb2.WaitResponse(exit_status=process.exit_status, exited_at=typeurl.timestamp(process.exited_at))

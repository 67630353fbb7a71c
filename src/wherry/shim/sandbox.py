"""containerd.runtime.sandbox.v1.Sandbox: this shim as the sandbox of the containers that are created in it.

As in containerd's runc shim there is no process of the sandbox's own: it is the shim, from create to shutdown. Its
containers are made by the Task service beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

from wherry.api import typeurl
from wherry.api.runtime.sandbox.v1 import sandbox_pb2 as api
from wherry.api.types.types_pb2 import Metric, Platform
from wherry.errors import AlreadyExists, Error, FailedPrecondition, NotFound
from wherry.oci import platform
from wherry.rpc.service import Service
from wherry.shim.core import Core
from wherry.shim.states import PAUSED
from wherry.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from wherry.rpc.context import CallContext
    from wherry.shim.container import Container

#: Seconds for the events of a sandbox's last moments.
_FLUSH_TIMEOUT = 5.0

#: The states that Kubernetes knows.
_READY = "SANDBOX_READY"
_NOT_READY = "SANDBOX_NOTREADY"


class _Sandbox:
    """What the sandbox was made from, and what has become of it. Times are nanoseconds since the epoch."""

    def __init__(self, request: Any) -> None:
        self.id: str = request.sandbox_id
        self.request = request
        self.created_at = time.time_ns()
        self.started = False
        self.exited_at: int | None = None
        self.stopped = asyncio.Event()


class SandboxService(Service):
    """The one sandbox that a shim may be."""

    descriptor = api.DESCRIPTOR.services_by_name["Sandbox"]

    def __init__(self, core: Core, tasks: Tasks, flush: Callable[[float], Awaitable[None]]) -> None:
        """`flush` returns when the daemon has all events, or some seconds have passed."""
        self._core = core
        self._flush = flush
        self._tasks = tasks
        self._sandbox: _Sandbox | None = None

    def _get(self, id: str) -> _Sandbox:
        if self._sandbox is None or self._sandbox.id != id:
            raise NotFound(f'sandbox "{id}"')
        return self._sandbox

    async def create_sandbox(self, request: Any, context: CallContext) -> api.CreateSandboxResponse:
        if self._sandbox is not None:
            raise AlreadyExists(f'sandbox "{self._sandbox.id}"')
        self._sandbox = _Sandbox(request)
        self._core.held = True
        return api.CreateSandboxResponse()

    async def start_sandbox(self, request: Any, context: CallContext) -> api.StartSandboxResponse:
        sandbox = self._get(request.sandbox_id)
        if sandbox.stopped.is_set():
            raise FailedPrecondition(f'sandbox "{sandbox.id}" has been stopped')
        if sandbox.started:
            raise FailedPrecondition(f'sandbox "{sandbox.id}" has been started')
        sandbox.started = True
        return api.StartSandboxResponse(pid=os.getpid(), created_at=typeurl.timestamp(sandbox.created_at))

    async def platform(self, request: Any, context: CallContext) -> api.PlatformResponse:
        self._get(request.sandbox_id)
        host = platform.Platform.host()
        return api.PlatformResponse(platform=Platform(os=host.os, architecture=host.architecture, variant=host.variant))

    async def stop_sandbox(self, request: Any, context: CallContext) -> api.StopSandboxResponse:
        sandbox = self._get(request.sandbox_id)
        await self._tasks.run(self._stop(sandbox, request.timeout_secs))
        return api.StopSandboxResponse()

    async def wait_sandbox(self, request: Any, context: CallContext) -> api.WaitSandboxResponse:
        sandbox = self._get(request.sandbox_id)
        await sandbox.stopped.wait()
        return api.WaitSandboxResponse(exit_status=0, exited_at=typeurl.timestamp(sandbox.exited_at))

    async def sandbox_status(self, request: Any, context: CallContext) -> api.SandboxStatusResponse:
        sandbox = self._get(request.sandbox_id)
        ready = sandbox.started and not sandbox.stopped.is_set()
        return api.SandboxStatusResponse(
            sandbox_id=sandbox.id,
            pid=os.getpid(),
            state=_READY if ready else _NOT_READY,
            info=self._info(sandbox) if request.verbose else {},
            created_at=typeurl.timestamp(sandbox.created_at),
            exited_at=typeurl.timestamp(sandbox.exited_at) if sandbox.exited_at is not None else None,
            extra=sandbox.request.options if sandbox.request.HasField("options") else None,
        )

    def _info(self, sandbox: _Sandbox) -> dict[str, str]:
        request = sandbox.request
        rootfs = [{"type": each.type, "source": each.source, "options": list(each.options)} for each in request.rootfs]
        return {
            "bundle_path": request.bundle_path,
            "netns_path": request.netns_path,
            "annotations": json.dumps(dict(request.annotations), sort_keys=True),
            "rootfs": json.dumps(rootfs),
            "containers": json.dumps(sorted(self._core.containers)),
        }

    async def ping_sandbox(self, request: Any, context: CallContext) -> api.PingResponse:
        self._get(request.sandbox_id)
        return api.PingResponse()

    async def shutdown_sandbox(self, request: Any, context: CallContext) -> api.ShutdownSandboxResponse:
        sandbox = self._get(request.sandbox_id)
        await self._tasks.run(self._stop(sandbox, 0))
        # Before the daemon sees the shim end, and tells of containers' exits that it has not heard of.
        await self._flush(_FLUSH_TIMEOUT)
        self._core.held = False
        # Containers that nobody has deleted are the daemon's to clean up: it sees the shim end.
        self._core.ended.set()
        return api.ShutdownSandboxResponse()

    async def sandbox_metrics(self, request: Any, context: CallContext) -> api.SandboxMetricsResponse:
        # No process, so no figures: those of the containers are theirs.
        sandbox = self._get(request.sandbox_id)
        return api.SandboxMetricsResponse(metrics=Metric(timestamp=typeurl.now(), id=sandbox.id))

    async def _stop(self, sandbox: _Sandbox, timeout: int) -> None:
        """End every container: asked to, if there are seconds for that, then killed. No new one can be made."""
        self._core.refusal = f'sandbox "{sandbox.id}" has been stopped'
        await self._core.settled.wait()
        containers = list(self._core.containers.values())
        if timeout:
            await self._signal(containers, signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout):
                    await _ended(containers)
            except TimeoutError:
                pass  # they had their time
        await self._signal(containers, signal.SIGKILL)
        await _ended(containers)
        if sandbox.exited_at is None:
            sandbox.exited_at = time.time_ns()
        sandbox.stopped.set()

    async def _signal(self, containers: list[Container], number: int) -> None:
        for container in containers:
            if container.init.finished.is_set():
                continue
            try:
                await container.kill("", number, all=number == signal.SIGKILL)
                if number == signal.SIGKILL and container.init.state is PAUSED:
                    await container.resume()  # a frozen process does not end
            except Error:
                continue  # it has ended meanwhile; one that has not is waited for


async def _ended(containers: list[Container]) -> None:
    for container in containers:
        await container.init.finished.wait()

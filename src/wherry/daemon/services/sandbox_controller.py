"""containerd.services.sandbox.v1.Controller."""

from __future__ import annotations

from typing import Any

from wherry.api import typeurl
from wherry.api.runtime.sandbox.v1 import sandbox_pb2 as runtime
from wherry.api.services.sandbox.v1 import sandbox_pb2 as api
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.daemon.runtime.shim_manager import ShimManager
from wherry.daemon.runtime.task import CONNECT_TIMEOUT
from wherry.daemon.services.sandbox_store import from_message
from wherry.errors import Error, InvalidArgument, NotFound, from_status
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.sandboxes import Sandbox, SandboxStore

#: The one controller that there is, by containerd's name for it.
SHIM = "shim"


class SandboxControllerService(Service):
    """Sandboxes that run."""

    descriptor = api.DESCRIPTOR.services_by_name["Controller"]

    def __init__(self, manager: ShimManager, store: SandboxStore) -> None:
        self._manager = manager
        self._sandboxes = manager.sandboxes
        self._store = store

    async def create(self, request: Any, context: CallContext) -> api.ControllerCreateResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        record = self._record(namespace, request)
        id = request.sandbox_id or record.id
        await self._manager.create_sandbox(
            namespace,
            record.runtime_name,
            AnyMessage(type_url=record.runtime_options[0], value=record.runtime_options[1])
            if record.runtime_options is not None
            else None,
            record.spec[1] if record.spec is not None else b"",
            runtime.CreateSandboxRequest(
                sandbox_id=id,
                rootfs=request.rootfs,
                options=request.options if request.HasField("options") else None,
                netns_path=request.netns_path,
                annotations=request.annotations,
            ),
        )
        return api.ControllerCreateResponse(sandbox_id=id)

    def _record(self, namespace: str, request: Any) -> Sandbox:
        """Return what the request says of the sandbox, or else the store: clients up to 1.7 leave it at that."""
        if request.HasField("sandbox"):
            return from_message(request.sandbox)
        try:
            return self._store.get(namespace, request.sandbox_id)
        except NotFound as error:
            raise NotFound(f"failed to query sandbox metadata from store: {error.message}") from None

    async def start(self, request: Any, context: CallContext) -> api.ControllerStartResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        try:
            sandbox, response = await self._sandboxes.start(namespace, request.sandbox_id)
        except Error as error:
            text = f'failed to start sandbox "{request.sandbox_id}": {error.message}'
            raise from_status(error.code, text) from None
        return api.ControllerStartResponse(
            sandbox_id=request.sandbox_id,
            pid=response.pid,
            created_at=response.created_at,
            address=sandbox.endpoint,
            version=sandbox.shim.version,
            spec=response.spec if response.HasField("spec") else None,
        )

    async def platform(self, request: Any, context: CallContext) -> api.ControllerPlatformResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        sandbox = self._sandboxes.get(namespace, request.sandbox_id)
        asked = runtime.PlatformRequest(sandbox_id=request.sandbox_id)
        response = await sandbox.call("platform", asked, CONNECT_TIMEOUT, "failed to get sandbox platform")
        return api.ControllerPlatformResponse(platform=response.platform)

    async def stop(self, request: Any, context: CallContext) -> api.ControllerStopResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        await self._sandboxes.stop(namespace, request.sandbox_id, request.timeout_secs)
        return api.ControllerStopResponse()

    async def wait(self, request: Any, context: CallContext) -> api.ControllerWaitResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        status, at = await self._sandboxes.exit(namespace, request.sandbox_id)
        return api.ControllerWaitResponse(exit_status=status, exited_at=typeurl.timestamp(at))

    async def status(self, request: Any, context: CallContext) -> api.ControllerStatusResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        sandbox = self._sandboxes.find(namespace, request.sandbox_id)
        if sandbox is None:
            # As containerd: what is not there has ended.
            return api.ControllerStatusResponse(sandbox_id=request.sandbox_id, exited_at=typeurl.now())
        asked = runtime.SandboxStatusRequest(sandbox_id=request.sandbox_id, verbose=request.verbose)
        failure = f"failed to query sandbox {request.sandbox_id} status"
        response = await sandbox.call("sandbox_status", asked, CONNECT_TIMEOUT, failure)
        return api.ControllerStatusResponse(
            sandbox_id=response.sandbox_id or request.sandbox_id,
            pid=response.pid,
            state=response.state,
            info=response.info,
            created_at=response.created_at,
            exited_at=response.exited_at,
            extra=response.extra if response.HasField("extra") else None,
            address=sandbox.endpoint,
            version=sandbox.shim.version,
        )

    async def shutdown(self, request: Any, context: CallContext) -> api.ControllerShutdownResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        await self._sandboxes.shutdown(namespace, request.sandbox_id)
        return api.ControllerShutdownResponse()

    async def metrics(self, request: Any, context: CallContext) -> api.ControllerMetricsResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        sandbox = self._sandboxes.get(namespace, request.sandbox_id)
        asked = runtime.SandboxMetricsRequest(sandbox_id=request.sandbox_id)
        response = await sandbox.call("sandbox_metrics", asked, CONNECT_TIMEOUT)
        return api.ControllerMetricsResponse(metrics=response.metrics if response.HasField("metrics") else None)

    async def update(self, request: Any, context: CallContext) -> api.ControllerUpdateResponse:
        namespace = context.namespace
        _check(request.sandboxer)
        if not request.HasField("sandbox"):
            raise InvalidArgument("sandbox can not be nil")
        # Shims have no call for it: what they were created with stays, as under containerd.
        self._sandboxes.get(namespace, request.sandbox_id)
        return api.ControllerUpdateResponse()


def _check(sandboxer: str) -> None:
    """Raise, in containerd's words, for a controller that there is not."""
    if not sandboxer:
        raise InvalidArgument("invalid argument: sandbox controller name can not be empty")
    if sandboxer != SHIM:
        raise NotFound(f"not found: failed to get sandbox controller by {sandboxer}")

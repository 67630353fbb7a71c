"""Sandboxes: what several containers share, as records and as what runs."""

from __future__ import annotations

from wherry.api.services.sandbox.v1 import sandbox_pb2
from wherry.api.types.types_pb2 import Sandbox as Sandbox
from wherry.client.documents import document
from wherry.errors import Error, FailedPrecondition, NotFound
from wherry.rpc.channel import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from wherry.api.services.sandbox.v1.sandbox_pb2 import ControllerStartResponse, ControllerStatusResponse
    from wherry.api.wellknown_pb2 import Any as AnyMessage
    from wherry.client.client import Client

DEFAULT_RUNTIME = "io.containerd.runc.v2"

#: The controller that has a shim for each sandbox.
DEFAULT_SANDBOXER = "shim"


class Sandboxes:
    """A namespace's sandboxes."""

    def __init__(self, client: Client) -> None:
        services = sandbox_pb2.DESCRIPTOR.services_by_name
        self._metadata = client.metadata
        self._store = Stub(client.channel, services["Store"])
        self._controller = Stub(client.channel, services["Controller"])

    async def create(
        self,
        id: str,
        *,
        runtime: str = DEFAULT_RUNTIME,
        runtime_options: AnyMessage | None = None,
        spec: AnyMessage | None = None,
        labels: Mapping[str, str] | None = None,
        sandboxer: str = DEFAULT_SANDBOXER,
        netns_path: str = "",
        annotations: Mapping[str, str] | None = None,
        options: AnyMessage | None = None,
    ) -> Sandbox:
        """Record a sandbox and have its controller make it; returns the record. A failure leaves nothing.

        `options` are the controller's, `runtime_options` the shim's. AlreadyExists for an id in use.
        """
        sandbox = Sandbox(
            sandbox_id=id,
            runtime=Sandbox.Runtime(name=runtime, options=runtime_options),
            spec=spec,
            labels=labels,
            sandboxer=sandboxer,
        )
        made = await self._store.create(sandbox_pb2.StoreCreateRequest(sandbox=sandbox), metadata=self._metadata)
        record: Sandbox = made.sandbox
        request = sandbox_pb2.ControllerCreateRequest(
            sandbox_id=id,
            sandboxer=sandboxer,
            sandbox=record,
            netns_path=netns_path,
            annotations=annotations,
            options=options,
        )
        try:
            await self._controller.create(request, metadata=self._metadata)
        except BaseException:
            await self._store.delete(sandbox_pb2.StoreDeleteRequest(sandbox_id=id), metadata=self._metadata)
            raise
        return record

    async def get(self, id: str) -> Sandbox:
        """Return a sandbox's record. NotFound if there is none."""
        request = sandbox_pb2.StoreGetRequest(sandbox_id=id)
        sandbox: Sandbox = (await self._store.get(request, metadata=self._metadata)).sandbox
        return sandbox

    async def start(self, id: str) -> ControllerStartResponse:
        """Start a sandbox; returns its pid, and the address that its containers' shim has."""
        request = sandbox_pb2.ControllerStartRequest(sandbox_id=id, sandboxer=await self._sandboxer(id))
        response: ControllerStartResponse = await self._controller.start(request, metadata=self._metadata)
        return response

    async def stop(self, id: str, timeout: int = 0) -> None:
        """End a sandbox's containers, which have some seconds for it before they are killed."""
        request = sandbox_pb2.ControllerStopRequest(
            sandbox_id=id, sandboxer=await self._sandboxer(id), timeout_secs=timeout
        )
        await self._controller.stop(request, metadata=self._metadata)

    async def wait(self, id: str) -> int:
        """Return a sandbox's exit status once it has ended. NotFound if it does not run."""
        request = sandbox_pb2.ControllerWaitRequest(sandbox_id=id, sandboxer=await self._sandboxer(id))
        status: int = (await self._controller.wait(request, metadata=self._metadata)).exit_status
        return status

    async def status(self, id: str, *, verbose: bool = False) -> ControllerStatusResponse:
        """Return what a sandbox's controller says of it; with `verbose`, with all that it knows."""
        request = sandbox_pb2.ControllerStatusRequest(
            sandbox_id=id, sandboxer=await self._sandboxer(id), verbose=verbose
        )
        status: ControllerStatusResponse = await self._controller.status(request, metadata=self._metadata)
        return status

    async def list(self, filters: Iterable[str] = ()) -> list[Sandbox]:
        """Return the records that match one of the filters; all of them if there is none."""
        response = await self._store.list(sandbox_pb2.StoreListRequest(filters=filters), metadata=self._metadata)
        return list(response.list)

    async def inspect(self, id: str) -> dict[str, Any]:
        """Return a sandbox's record and what its controller says of it, as a JSON object."""
        found = document(await self.get(id))
        try:
            found["status"] = document(await self.status(id, verbose=True))
        except Error as error:
            found["status"] = {"error": str(error)}  # its shim does not answer, or there is no such controller
        return found

    async def remove(self, id: str, *, force: bool = False) -> None:
        """Remove a sandbox and its record; with `force`, end its containers.

        NotFound if there is none, FailedPrecondition if it runs and may not be ended.
        """
        sandboxer = await self._sandboxer(id)
        if not force and (await self.status(id)).state == "SANDBOX_READY":
            raise FailedPrecondition(f'sandbox "{id}" is running: remove it with --force')
        try:
            request = sandbox_pb2.ControllerShutdownRequest(sandbox_id=id, sandboxer=sandboxer)
            await self._controller.shutdown(request, metadata=self._metadata)
        except NotFound:
            pass  # it does not run: the record is all there is
        await self._store.delete(sandbox_pb2.StoreDeleteRequest(sandbox_id=id), metadata=self._metadata)

    async def _sandboxer(self, id: str) -> str:
        return (await self.get(id)).sandboxer or DEFAULT_SANDBOXER

"""Sandboxes that are shims: started for a sandbox, and spoken to by containerd.runtime.sandbox.v1.

Their bundles are beside those of tasks. In one, ``started`` says that the sandbox was started, and ``exited`` how it
ended, for a daemon that finds it later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from wherry import identifiers
from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.runtime.sandbox.v1 import sandbox_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.completion import run_to_completion
from wherry.daemon.exchange import Exchange
from wherry.daemon.runtime import bundle as bundles
from wherry.daemon.runtime.bundle import Bundle
from wherry.daemon.runtime.log import ShimLog
from wherry.daemon.runtime.shims import ShimProcess, Starter, shim_binary
from wherry.daemon.runtime.task import CONNECT_TIMEOUT, LIFE_TIMEOUT, RUNTIME_TIMEOUT, CreateRequest, V2Client
from wherry.errors import Error, InvalidArgument, NotFound, Unavailable, Unimplemented, Unknown, from_status
from wherry.linux import mount
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.ttrpc_channel import TtrpcChannel

log = logging.getLogger(__name__)

#: What a sandbox's exit is when nobody saw it.
_UNSEEN_EXIT = 128 + signal.SIGKILL

_STARTED, _EXITED = "started", "exited"


class SandboxShim:
    """A sandbox: its bundle, its shim, and the way to talk to it."""

    def __init__(self, bundle: Bundle, shim: ShimProcess, channel: TtrpcChannel, shim_log: ShimLog) -> None:
        self.bundle = bundle
        self.shim = shim
        self.channel = channel
        self.log = shim_log
        self.client = V2Client(channel, bundle.namespace, shim.version)
        self._stub = Stub(channel, sandbox_pb2.DESCRIPTOR.services_by_name["Sandbox"])
        self._metadata = metadata_for(bundle.namespace)
        #: Exit status, and when that was in nanoseconds.
        self.exit: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        #: Set while Shutdown does the cleaning up, which the end of the shim would otherwise start.
        self.deleting = False

    @property
    def id(self) -> str:
        return self.bundle.id

    @property
    def endpoint(self) -> str:
        """Where clients find its services, as containerd writes it."""
        return f"ttrpc+unix://{self.shim.path}"

    async def call(self, method: str, request: Any, timeout: float | None, failure: str = "") -> Any:
        """Make a call to the Sandbox service; `failure` is put before what it raises."""
        try:
            return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=timeout)
        except Error as error:
            raise (from_status(error.code, f"{failure}: {error.message}") if failure else error) from None


class Sandboxes:
    """The sandboxes of one daemon that are shims."""

    def __init__(
        self, root: str, state: str, configured: Mapping[str, str], starter: Starter, exchange: Exchange
    ) -> None:
        self._root = root
        self._state = state
        self._configured = configured
        self._starter = starter
        self._exchange = exchange
        self._sandboxes: dict[tuple[str, str], SandboxShim] = {}
        self._group: asyncio.TaskGroup

    async def run(self, group: asyncio.TaskGroup) -> None:
        """Find the sandboxes of the daemon before this one; watch them, and those to come, in a group of tasks."""
        self._group = group
        found = bundles.found(self._state, self._root, bundles.SANDBOX)
        await asyncio.gather(*(self._recover(bundle) for bundle in found))

    def find(self, namespace: str, id: str) -> SandboxShim | None:
        """Return a sandbox, if there is one of this id."""
        return self._sandboxes.get((namespace, id))

    def get(self, namespace: str, id: str) -> SandboxShim:
        """Return a sandbox. NotFound if there is none of this id."""
        sandbox = self.find(namespace, id)
        if sandbox is None:
            raise NotFound(f'sandbox "{id}"')
        return sandbox

    def shim_for(self, namespace: str, request: CreateRequest, pause: ShimProcess | None) -> ShimProcess | None:
        """Return the shim that a sandbox's containers are created in; None if they have shims of their own.

        `pause` is that of a container which is the sandbox, if there is one. Unknown, in containerd's words, if there
        is no such sandbox.
        """
        known = self.find(namespace, request.sandbox)
        shim = known.shim if known is not None else pause
        if request.sandbox_address:
            protocol, plus, _address = request.sandbox_address.partition("+")
            if not plus:
                raise Unknown(
                    "failed to start shim: the scheme of sandbox address should be in the form of "
                    "<protocol>+<unix|vsock|tcp>, i.e. ttrpc+unix or grpc+vsock"
                )
            if not request.sandbox_address.startswith("ttrpc+unix://"):
                raise Unimplemented(f"failed to start shim: sandbox address {request.sandbox_address}: {protocol}")
            binary = shim.binary if shim is not None else ""
            found = ShimProcess(request.sandbox_address, request.sandbox_version or 3, binary)
        elif shim is not None:
            found = ShimProcess(shim.address, shim.version, shim.binary)
        else:
            raise Unknown(f"failed to start shim: can't find sandbox {request.sandbox}")
        return found if found.version >= 3 and not found.local else None

    # -- life -------------------------------------------------------------------------------------------------------

    async def create(
        self,
        namespace: str,
        runtime: str,
        options: AnyMessage | None,
        spec: bytes,
        request: sandbox_pb2.CreateSandboxRequest,
    ) -> None:
        """Start a shim with a runtime's options and have it create a sandbox. What it raises leaves nothing behind."""
        id = request.sandbox_id
        try:
            identifiers.validate(id)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid sandbox ID: {error.message}") from None
        failure = f"failed to start new shim for sandbox {id}"
        if not runtime:
            raise InvalidArgument(f"{failure}: failed to resolve runtime path: no runtime name")
        bundle = Bundle(self._state, self._root, bundles.SANDBOX, namespace, id)
        async with AsyncExitStack() as undo:
            bundle.create(spec or b"{}")
            undo.callback(_remove, bundle)
            try:
                sandbox = await self._start_shim(shim_binary(runtime, self._configured), bundle, options)
            except Error as error:
                text = error.message.removeprefix("failed to start shim: ")
                raise from_status(error.code, f"{failure}: {text}") from None
            undo.push_async_callback(self._end, sandbox)
            request.bundle_path = bundle.path
            await sandbox.call("create_sandbox", request, LIFE_TIMEOUT, f"failed to create sandbox {id}")
            undo.pop_all()
        self._register(sandbox)
        self._publish(bundle, "create", events_pb2.SandboxCreate(sandbox_id=id))

    async def _start_shim(self, binary: str, bundle: Bundle, options: AnyMessage | None) -> SandboxShim:
        async with AsyncExitStack() as undo:
            shim_log = ShimLog(bundle)
            undo.callback(shim_log.close)
            shim = await self._starter.start(binary, bundle, options, shim_log.fd)
            undo.push_async_callback(_end_process, shim)
            sandbox = await _connect(bundle, shim, shim_log)
            undo.pop_all()
        return sandbox

    async def start(self, namespace: str, id: str) -> tuple[SandboxShim, sandbox_pb2.StartSandboxResponse]:
        """Start a sandbox; returns it and what its shim says. One that cannot be started is gone afterwards."""
        sandbox = self.find(namespace, id)
        if sandbox is None:
            raise NotFound(f'unable to find sandbox "{id}"')
        return sandbox, await run_to_completion(self._group, self._start(sandbox))

    async def _start(self, sandbox: SandboxShim) -> sandbox_pb2.StartSandboxResponse:
        request = sandbox_pb2.StartSandboxRequest(sandbox_id=sandbox.id)
        started = sandbox.bundle.read(_STARTED) is not None
        response: sandbox_pb2.StartSandboxResponse
        try:
            failure = f"failed to start sandbox {sandbox.id}"
            response = await sandbox.call("start_sandbox", request, LIFE_TIMEOUT, failure)
        except Error:
            # One that runs is not ended because somebody has started it twice.
            if not started and not sandbox.exit.done() and not sandbox.deleting:
                try:
                    await self._shut_down(sandbox)
                except Error as error:
                    log.warning("%s", error)
                    await self._clear_away(sandbox)
            raise
        sandbox.bundle.write(_STARTED, b"")
        self._group.create_task(self._wait(sandbox))
        self._publish(sandbox.bundle, "start", events_pb2.SandboxStart(sandbox_id=sandbox.id))
        return response

    async def stop(self, namespace: str, id: str, timeout: int) -> None:
        """End a sandbox's containers, within some seconds if they can. Nothing happens without such a sandbox."""
        sandbox = self.find(namespace, id)
        if sandbox is None:
            return
        request = sandbox_pb2.StopSandboxRequest(sandbox_id=id, timeout_secs=timeout)
        try:
            await sandbox.call("stop_sandbox", request, timeout + RUNTIME_TIMEOUT, "failed to stop sandbox")
        except (NotFound, Unavailable):
            return  # it has ended

    async def exit(self, namespace: str, id: str) -> tuple[int, int]:
        """Return how a sandbox ended, and when in nanoseconds, once it has. NotFound without such a sandbox."""
        return await asyncio.shield(self.get(namespace, id).exit)

    async def shutdown(self, namespace: str, id: str) -> None:
        """End a sandbox and its shim, and remove its bundle. NotFound without such a sandbox."""
        await run_to_completion(self._group, self._shut_down(self.get(namespace, id)))

    async def _shut_down(self, sandbox: SandboxShim) -> None:
        if sandbox.deleting:
            raise NotFound(f'sandbox "{sandbox.id}"')
        sandbox.deleting = True
        request = sandbox_pb2.ShutdownSandboxRequest(sandbox_id=sandbox.id)
        try:
            await sandbox.call("shutdown_sandbox", request, LIFE_TIMEOUT, "failed to shutdown sandbox")
        except (NotFound, Unavailable):
            pass  # it has ended, or its answer was lost as it did
        except Error:
            sandbox.deleting = False
            raise
        await self._clear_away(sandbox)

    async def _clear_away(self, sandbox: SandboxShim) -> None:
        """End what is left of a sandbox, and forget it."""
        sandbox.deleting = True
        await self._end(sandbox)
        self._exited(sandbox, 0, typeurl.nanoseconds(typeurl.now()) or 0)
        self._sandboxes.pop((sandbox.bundle.namespace, sandbox.id), None)
        _remove(sandbox.bundle)

    async def _end(self, sandbox: SandboxShim) -> None:
        try:
            await sandbox.client.shutdown(sandbox.id)  # which one that has shut down does not hear any more
        except Error:
            pass
        await sandbox.channel.close()
        await sandbox.shim.ended()
        await _end_process(sandbox.shim)
        if not sandbox.shim.own:
            try:
                await self._starter.delete(sandbox.shim.binary, sandbox.bundle)
            except (Error, OSError) as error:
                log.warning("shim delete of sandbox %s: %s", sandbox.id, error)
        sandbox.log.close()

    # -- what happens to it -----------------------------------------------------------------------------------------

    def _register(self, sandbox: SandboxShim) -> None:
        self._sandboxes[sandbox.bundle.namespace, sandbox.id] = sandbox
        self._group.create_task(self._watch(sandbox))

    async def _wait(self, sandbox: SandboxShim) -> None:
        """Tell how a sandbox that has been started ends."""
        try:
            response = await sandbox.call("wait_sandbox", sandbox_pb2.WaitSandboxRequest(sandbox_id=sandbox.id), None)
        except Error as error:
            if not sandbox.channel.closed.done():
                log.warning("waiting for sandbox %s: %s", sandbox.id, error)
            return  # the end of its shim tells
        at = typeurl.nanoseconds(response.exited_at) or typeurl.nanoseconds(typeurl.now()) or 0
        self._exited(sandbox, response.exit_status, at)

    async def _watch(self, sandbox: SandboxShim) -> None:
        await sandbox.channel.closed
        if sandbox.deleting:
            return
        sandbox.deleting = True
        bundle = sandbox.bundle
        log.warning("cleaning up after killed shim", extra={"id": bundle.id, "namespace": bundle.namespace})
        await self._clean_up(bundle, sandbox.shim, sandbox)
        sandbox.log.close()

    async def _clean_up(self, bundle: Bundle, shim: ShimProcess, sandbox: SandboxShim | None = None) -> None:
        """Remove what a dead shim left of a sandbox, and say that it ended if nobody has. Tasks are others' matter."""
        await _end_process(shim)
        at = typeurl.nanoseconds(typeurl.now()) or 0
        if sandbox is not None:
            self._exited(sandbox, _UNSEEN_EXIT, at)
        elif _exit_of(bundle) is None:
            self._publish_exit(bundle, _UNSEEN_EXIT, at)
        self._sandboxes.pop((bundle.namespace, bundle.id), None)
        if not shim.own and shim.binary:
            try:
                await self._starter.delete(shim.binary, bundle)
            except (Error, OSError) as error:
                log.warning("shim delete of sandbox %s: %s", bundle.id, error)
        _remove(bundle)

    def _exited(self, sandbox: SandboxShim, status: int, at: int) -> None:
        if sandbox.exit.done():
            return
        self._publish_exit(sandbox.bundle, status, at)
        sandbox.exit.set_result((status, at))
        try:
            sandbox.bundle.write(_EXITED, json.dumps([status, at]).encode())
        except FileNotFoundError:
            return  # it is removed just now

    def _publish_exit(self, bundle: Bundle, status: int, at: int) -> None:
        event = events_pb2.SandboxExit(sandbox_id=bundle.id, exit_status=status, exited_at=typeurl.timestamp(at))
        self._publish(bundle, "exit", event)

    def _publish(self, bundle: Bundle, what: str, event: Any) -> None:
        self._exchange.publish(bundle.namespace, f"/sandboxes/{what}", event)

    # -- after a restart --------------------------------------------------------------------------------------------

    async def _recover(self, bundle: Bundle) -> None:
        record = bundle.shim_record()
        if record is None:
            # The daemon died before it had a shim: nobody was told of this sandbox.
            _remove(bundle)
            return
        shim = ShimProcess(*record)
        shim_log = ShimLog(bundle)
        try:
            sandbox = await _connect(bundle, shim, shim_log)
        except (Error, OSError) as error:
            log.warning("sandbox %s/%s does not answer: %s", bundle.namespace, bundle.id, error)
            shim_log.close()
            await self._clean_up(bundle, shim)
            return
        request = sandbox_pb2.SandboxStatusRequest(sandbox_id=bundle.id)
        try:
            await sandbox.call("sandbox_status", request, CONNECT_TIMEOUT)
        except (NotFound, Unimplemented):
            # The daemon died while the shim was creating: nobody was told.
            await self._end(sandbox)
            _remove(bundle)
            return
        except Error as error:
            log.warning("sandbox %s/%s: %s", bundle.namespace, bundle.id, error)
        exited = _exit_of(bundle)
        if exited is not None:
            sandbox.exit.set_result(exited)
        self._register(sandbox)
        if exited is None and bundle.read(_STARTED) is not None:
            self._group.create_task(self._wait(sandbox))
        log.info("found sandbox", extra={"id": bundle.id, "namespace": bundle.namespace, "pid": shim.pid})


async def _connect(bundle: Bundle, shim: ShimProcess, shim_log: ShimLog) -> SandboxShim:
    channel = await TtrpcChannel.connect(shim.path, timeout=CONNECT_TIMEOUT)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(channel.close)
        sandbox = SandboxShim(bundle, shim, channel, shim_log)
        if not shim.pid:
            shim.pid = await sandbox.client.connect(bundle.id)
            shim.pidfd = os.pidfd_open(shim.pid)
        undo.pop_all()
    return sandbox


async def _end_process(shim: ShimProcess) -> None:
    """Kill a shim, if it is there, and remove its socket."""
    shim.kill()
    await shim.ended()
    shim.remove_socket()
    shim.close()


def _exit_of(bundle: Bundle) -> tuple[int, int] | None:
    try:
        status, at = json.loads(bundle.read(_EXITED) or b"")
        return int(status), int(at)
    except (ValueError, TypeError):
        return None


def _remove(bundle: Bundle) -> None:
    mount.unmount_all(bundle.rootfs, mount.MNT_DETACH)
    bundle.delete()

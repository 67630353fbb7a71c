"""The tasks of this daemon: made, found again after a restart, cleaned up after a dead shim."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.types.types_pb2 import Envelope
from wherry.completion import run_to_completion
from wherry.daemon.exchange import Exchange
from wherry.daemon.runtime import bundle as bundles
from wherry.daemon.runtime import leftovers, shims
from wherry.daemon.runtime.bundle import Bundle
from wherry.daemon.runtime.log import ShimLog
from wherry.daemon.runtime.sandboxes import Sandboxes
from wherry.daemon.runtime.shims import ShimProcess, Starter, shim_binary
from wherry.daemon.runtime.task import (
    CreateRequest,
    ExitStatus,
    ShimClient,
    V1Client,
    V2Client,
    has_container,
    wrap_create_error,
)
from wherry.errors import AlreadyExists, DeadlineExceeded, Error, NotFound, Unavailable, from_status
from wherry.linux import mount
from wherry.rpc.local_channel import LocalChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.zygote.client import Zygote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.api.runtime.sandbox.v1.sandbox_pb2 import CreateSandboxRequest
    from wherry.api.wellknown_pb2 import Any as AnyMessage
    from wherry.daemon.mounts.manager import MountManager
    from wherry.daemon.runtime.local import LocalShims

log = logging.getLogger(__name__)

#: What a container's exit is when nobody saw it.
_UNSEEN_EXIT = 128 + signal.SIGKILL

_EXIT = "/tasks/exit"

#: Seconds for a container to end that was killed because its daemon ends.
_END_TIMEOUT = 10.0


class Task:
    """A task that is registered: its bundle, its shim, and the way to talk to it."""

    def __init__(
        self,
        bundle: Bundle,
        shim: ShimProcess,
        channel: TtrpcChannel | LocalChannel,
        client: ShimClient,
        shim_log: ShimLog | None = None,
    ) -> None:
        self.log = shim_log
        self.id = bundle.id
        self.namespace = bundle.namespace
        self.bundle = bundle
        self.shim = shim
        self.channel = channel
        self.client = client
        self.pid = 0
        #: Whether its shim is a sandbox's, which goes on without it.
        self.sandboxed = bool(bundle.sandbox)
        #: Whether the exit of its init has been published.
        self.exit_told = False
        #: Set while Delete does the cleaning up, which the end of the shim would otherwise start.
        self.deleting = False
        #: Set when it has done so.
        self.deleted = asyncio.Event()

    def close(self) -> None:
        """Close what the daemon holds of the shim."""
        self.shim.close()
        if self.log is not None:
            self.log.close()

    @property
    def v1(self) -> bool:
        return self.bundle.runtime == bundles.V1


class ShimManager:
    """Creates tasks and keeps the list of them."""

    def __init__(
        self,
        *,
        root: str,
        state: str,
        address: str,
        ttrpc_address: str,
        shims_configured: Mapping[str, str],
        zygote: Zygote,
        exchange: Exchange,
        mounts: MountManager,
        debug: bool = False,
        no_shim: bool = False,
    ) -> None:
        """`no_shim` makes this process itself the shim of containers that ours would have."""
        self._root = root
        self._state = state
        self._configured = shims_configured
        self._starter = Starter(zygote, address, ttrpc_address, debug=debug)
        self._exchange = exchange
        self._mounts = mounts
        self._tasks: dict[tuple[str, str], Task] = {}
        self._making: set[tuple[str, str]] = set()
        #: How many tasks each shim has, by its socket: those of a pod share one.
        self._sharing: Counter[str] = Counter()
        self._group: asyncio.TaskGroup
        self._no_shim = no_shim
        self.sandboxes = Sandboxes(root, state, shims_configured, self._starter, exchange)
        exchange.observers.append(self._observe)
        self._local: LocalShims | None = None

    async def run(self, ready: asyncio.Event) -> None:
        """Find the tasks of the daemon before this one, then set `ready` and watch shims until cancelled."""
        async with asyncio.TaskGroup() as self._group, AsyncExitStack() as undo:
            if self._no_shim:
                from wherry.daemon.runtime.local import LocalShims

                self._local = LocalShims(self._exchange, self._group)
                undo.callback(self._local.close)
                undo.push_async_callback(self._end_local)
            await self.sandboxes.run(self._group)
            await self._recover()
            ready.set()
            await asyncio.Event().wait()

    # -- the list ---------------------------------------------------------------------------------------------------

    def get(self, namespace: str, id: str) -> Task:
        """Return a task. NotFound if there is none."""
        try:
            return self._tasks[namespace, id]
        except KeyError:
            raise NotFound(f"task {id} not found") from None

    def list(self, namespace: str) -> list[Task]:
        return [task for (owner, _id), task in self._tasks.items() if owner == namespace]

    # -- create -----------------------------------------------------------------------------------------------------

    async def create(self, namespace: str, id: str, runtime: str, spec: bytes, request: CreateRequest) -> Task:
        """Make a bundle, start a shim and have it create the container; a failure leaves nothing of the three."""
        shims.validate(id)
        with self._reserved(namespace, id, f"task {id}"):
            # Whoever stops waiting, the work is done or undone to its end.
            return await run_to_completion(self._group, self._create(namespace, id, runtime, spec, request))

    @contextmanager
    def _reserved(self, namespace: str, id: str, what: str) -> Iterator[None]:
        """Keep an id for what is being made: tasks and sandboxes share theirs, since a shim's socket is named by it."""
        key = namespace, id
        if key in self._tasks or key in self._making or self.sandboxes.find(namespace, id) is not None:
            raise AlreadyExists(what)
        self._making.add(key)
        try:
            yield
        finally:
            self._making.discard(key)

    async def create_sandbox(
        self, namespace: str, runtime: str, options: AnyMessage | None, spec: bytes, request: CreateSandboxRequest
    ) -> None:
        """Make a bundle, start a shim and have it create a sandbox; a failure leaves nothing of the three."""
        id = request.sandbox_id
        with self._reserved(namespace, id, f"sandbox {id} already running"):
            work = self.sandboxes.create(namespace, runtime, options, spec, request)
            await run_to_completion(self._group, work)

    async def _create(self, namespace: str, id: str, runtime: str, spec: bytes, request: CreateRequest) -> Task:
        sandbox = self._sandbox_shim(namespace, request) if request.sandbox else None
        binary = sandbox.binary if sandbox is not None else shim_binary(runtime, self._configured)
        kind = bundles.V1 if runtime == bundles.V1 and sandbox is None else bundles.V2
        bundle = Bundle(self._state, self._root, kind, namespace, id)
        async with AsyncExitStack() as undo:
            bundle.create(spec)
            undo.callback(bundle.delete)
            request.rootfs = await self._mounts.activate_rootfs(namespace, id, request.rootfs)
            undo.push_async_callback(self._mounts.deactivate_rootfs, namespace, id)
            if sandbox is not None:
                task = await self._join(sandbox, bundle, request)
            else:
                task = await self._start_shim(binary, bundle, request)
            undo.push_async_callback(self._end_shim, task)
            try:
                task.pid = await task.client.create(id, bundle.path, request)
            except Error as error:
                raise (error if task.v1 else wrap_create_error(error)) from None
            undo.pop_all()
        self._register(task)
        if task.v1:
            self._publish(task, "/tasks/create", _task_create(task, request))
        return task

    def _sandbox_shim(self, namespace: str, request: CreateRequest) -> ShimProcess | None:
        """Return the shim that a sandbox's containers are created in; None if they have shims of their own."""
        # A sandbox may be a container itself, as Kubernetes' pause: its shim has the others as well.
        pause = self._tasks.get((namespace, request.sandbox))
        return self.sandboxes.shim_for(namespace, request, pause.shim if pause is not None else None)

    async def _join(self, sandbox: ShimProcess, bundle: Bundle, request: CreateRequest) -> Task:
        """Have a task in a shim that is there."""
        if (bundle.namespace, request.sandbox) not in self._tasks:
            bundle.record_sandbox(request.sandbox)
        bundle.record_shim(sandbox.address, sandbox.version, sandbox.binary)
        try:
            return await self._connect(bundle, sandbox, None)
        except (Error, OSError) as error:
            text = f'failed to start shim: failed to load sandbox task "{request.sandbox}": {error}'
            raise (from_status(error.code, text) if isinstance(error, Error) else Unavailable(text)) from None

    async def _start_shim(self, binary: str, bundle: Bundle, request: CreateRequest) -> Task:
        if self._local is not None and binary == shims.own_binary():
            return self._become_shim(self._local, bundle)
        shim_log = ShimLog(bundle) if bundle.runtime == bundles.V2 else None
        try:
            log_fd = shim_log.fd if shim_log is not None else -1
            shim = await self._starter.start(binary, bundle, request.options, log_fd)
            try:
                return await self._connect(bundle, shim, shim_log)
            except BaseException:
                shim.kill()
                await shim.ended()
                shim.remove_socket()
                shim.close()
                raise
        except BaseException:
            if shim_log is not None:
                shim_log.close()
            raise

    def _become_shim(self, local: LocalShims, bundle: Bundle) -> Task:
        v1 = bundle.runtime == bundles.V1
        shim = ShimProcess(shims.LOCAL, 1 if v1 else 3, shims.own_binary())
        bundle.record_shim(shim.address, shim.version, shim.binary)
        channel = local.channel(bundle.namespace, v1=v1)
        client: ShimClient = V1Client(channel, bundle.namespace) if v1 else V2Client(channel, bundle.namespace, 3)
        self._sharing[shim.path] += 1
        return Task(bundle, shim, channel, client)

    async def _end_local(self) -> None:
        """Kill and delete the containers that would have no parent any more."""
        await asyncio.gather(*(self._end_task(task) for task in self._tasks.copy().values() if task.shim.local))

    async def _end_task(self, task: Task) -> None:
        try:
            await task.client.kill(task.id, "", signal.SIGKILL, True)
            async with asyncio.timeout(_END_TIMEOUT):
                await task.client.wait(task.id, "")
        except (Error, TimeoutError):
            pass  # it has ended, or was never started; what is wrong with it otherwise, Delete says
        try:
            await self._delete(task)
        except Error as error:
            log.error("ending %s/%s: %s", task.namespace, task.id, error)

    async def _connect(self, bundle: Bundle, shim: ShimProcess, shim_log: ShimLog | None) -> Task:
        channel = await TtrpcChannel.connect(shim.path, timeout=5.0)
        client: ShimClient
        if bundle.runtime == bundles.V1:
            client = V1Client(channel, bundle.namespace)
        else:
            client = V2Client(channel, bundle.namespace, shim.version)
        task = Task(bundle, shim, channel, client, shim_log)
        if not shim.pid:
            # Somebody else's shim, or one from before a restart: which of the two names it serves, and which process
            # it is. Its socket's credentials would be those of whoever made the socket, which is long gone.
            try:
                shim.pid = await client.connect(bundle.id)
                shim.pidfd = os.pidfd_open(shim.pid)
            except ProcessLookupError:
                await channel.close()
                raise Unavailable(f"shim of {bundle.id}: it ended") from None
            except BaseException:
                await channel.close()
                raise
        self._sharing[shim.path] += 1
        return task

    def _register(self, task: Task) -> None:
        self._tasks[task.namespace, task.id] = task
        if isinstance(task.channel, TtrpcChannel):
            self._group.create_task(self._watch(task, task.channel))

    async def _end_shim(self, task: Task) -> None:
        """Undo the start of a shim that could not create its container."""
        if task.v1:
            task.shim.kill()
        if task.v1 or not await self._shut_down(task):
            # It may hold half a container, and will not say.
            await leftovers.runtime_ended(task.bundle)
            await leftovers.delete_container(task.bundle)
            mount.unmount_all(task.bundle.rootfs, mount.MNT_DETACH)
        await self._forget(task)

    async def _shut_down(self, task: Task) -> bool:
        """Ask a shim to end, which one that has other containers does not do; False if it did not answer."""
        if task.sandboxed:
            return True
        try:
            await task.client.shutdown(task.id)
        except DeadlineExceeded:
            if self._sharing[task.shim.path] <= 1:  # else it is the others' as well
                task.shim.kill()
            return False
        except Error:
            return False  # it has ended on its own, or its answer was lost as it did
        return True

    # -- delete -----------------------------------------------------------------------------------------------------

    async def delete(self, task: Task) -> ExitStatus:
        """Delete a task's container, end its shim and remove its bundle."""
        return await run_to_completion(self._group, self._delete(task))

    async def _delete(self, task: Task) -> ExitStatus:
        try:
            exit_status = await task.client.delete(task.id, "")
        except NotFound:
            # Somebody has deleted the container past us: the task would stay for ever if this were not its end.
            if not task.deleting:
                await self._clear_away(task, None)
            raise
        if task.deleting:  # by one that came at the same moment
            await task.deleted.wait()
        else:
            await self._clear_away(task, exit_status)
        return exit_status

    async def _clear_away(self, task: Task, exit_status: ExitStatus | None) -> None:
        """End the shim of a container that is deleted, and forget the task."""
        task.deleting = True
        try:
            await self._shut_down(task)  # whose container is gone, whatever it answers
            self._tasks.pop((task.namespace, task.id), None)
            await self._forget(task)
        finally:
            task.deleted.set()
        if task.v1 and exit_status is not None:
            event = events_pb2.TaskDelete(
                container_id=task.id,
                pid=exit_status.pid,
                exit_status=exit_status.status,
                exited_at=exit_status.exited_at,
            )
            self._publish(task, "/tasks/delete", event)

    async def _forget(self, task: Task) -> None:
        """End what is left of a shim whose container is gone, and remove the bundle."""
        await task.channel.close()
        last = self._release(task.shim) and not task.sandboxed
        if task.v1:
            task.shim.kill()
            await task.shim.ended()
        elif last and not task.shim.own:
            try:
                await self._starter.delete(task.shim.binary, task.bundle)
            except (Error, OSError) as error:
                log.warning("shim delete of %s: %s", task.id, error)
        if last and task.shim.has_socket:
            await task.shim.ended()  # it did not end in its own way
        if not task.sandboxed:
            task.shim.remove_socket()
        task.close()
        task.bundle.delete()
        await self._mounts.deactivate_rootfs(task.namespace, task.id)

    def _release(self, shim: ShimProcess) -> bool:
        """Count a task less for a shim; True if it was the last."""
        self._sharing[shim.path] -= 1
        if self._sharing[shim.path] > 0:
            return False
        del self._sharing[shim.path]
        return True

    # -- a dead shim ------------------------------------------------------------------------------------------------

    async def _watch(self, task: Task, channel: TtrpcChannel) -> None:
        await channel.closed
        if task.deleting:
            return
        log.info("shim reaped", extra={"id": task.id, "namespace": task.namespace})
        if self._tasks.pop((task.namespace, task.id), None) is None:
            return
        log.warning("cleaning up after killed shim", extra={"id": task.id, "namespace": task.namespace})
        self._release(task.shim)
        if task.log is not None:
            task.log.close()
        await self._clean_up(task.bundle, task.shim, exit_told=task.exit_told)

    def _observe(self, envelope: Envelope) -> None:
        if envelope.topic == _EXIT:
            event = events_pb2.TaskExit.FromString(envelope.event.value)
            task = self._tasks.get((envelope.namespace, event.container_id))
            if task is not None and event.id == event.container_id:
                task.exit_told = True

    async def _clean_up(self, bundle: Bundle, shim: ShimProcess, *, exit_told: bool = False) -> None:
        """Kill what a dead shim left of its container, remove all of it, and say that it ended if nobody has."""
        shim.kill()
        await shim.ended()
        pid = bundle.init_pid() or 0
        status, at = _UNSEEN_EXIT, typeurl.now()
        seen = bundle.exit()
        await leftovers.runtime_ended(bundle)
        try:
            if bundle.runtime == bundles.V1 or shim.own or not shim.binary:
                await leftovers.delete_container(bundle)
            else:
                response = await self._starter.delete(shim.binary, bundle)
                status, pid = response.exit_status, response.pid
                at = response.exited_at
        except (Error, OSError) as error:
            log.error("cleaning up %s: %s", bundle.id, error)
            status = 255
        if seen is not None:
            status, at = seen[0], typeurl.timestamp(seen[1])
        mount.unmount_all(bundle.rootfs, mount.MNT_DETACH)
        shim.remove_socket()
        shim.close()
        bundle.delete()
        await self._mounts.deactivate_rootfs(bundle.namespace, bundle.id)
        exited = events_pb2.TaskExit(container_id=bundle.id, id=bundle.id, pid=pid, exit_status=status, exited_at=at)
        if not exit_told:
            self._exchange.publish(bundle.namespace, _EXIT, exited)
        deleted = events_pb2.TaskDelete(container_id=bundle.id, pid=pid, exit_status=status, exited_at=at)
        self._exchange.publish(bundle.namespace, "/tasks/delete", deleted)

    # -- after a restart --------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        for runtime in (bundles.V1, bundles.V2):
            found = bundles.found(self._state, self._root, runtime)
            await asyncio.gather(*(self._recover_one(bundle) for bundle in found))

    async def _recover_one(self, bundle: Bundle) -> None:
        record = bundle.shim_record()
        if record is None:
            # The daemon died before it had a shim: nobody was told of this task.
            await self._clean_up_silently(bundle)
            return
        address, version, binary = record
        shim = ShimProcess(address, version, binary)
        if shim.local:
            await self._clean_up(bundle, shim)
            return
        shim_log = ShimLog(bundle) if bundle.runtime == bundles.V2 else None
        try:
            task = await self._connect(bundle, shim, shim_log)
            task.pid = bundle.init_pid() or 0
            created = await has_container(task.client, task.id)
        except (Error, OSError) as error:
            log.warning("shim of %s/%s does not answer: %s", bundle.namespace, bundle.id, error)
            if shim_log is not None:
                shim_log.close()
            await self._clean_up(bundle, shim)
            return
        if not created:
            # The daemon died while the shim was creating, or between Delete and the end of the shim.
            await self._end_shim(task)
            return
        self._register(task)
        log.info("found task", extra={"id": bundle.id, "namespace": bundle.namespace, "pid": task.pid})

    async def _clean_up_silently(self, bundle: Bundle) -> None:
        mount.unmount_all(bundle.rootfs, mount.MNT_DETACH)
        bundle.delete()
        await self._mounts.deactivate_rootfs(bundle.namespace, bundle.id)

    # -- events -----------------------------------------------------------------------------------------------------

    def _publish(self, task: Task, topic: str, event: Any) -> None:
        self._exchange.publish(task.namespace, topic, event)

    def publish_v1(self, task: Task, topic: str, event: Any) -> None:
        """Publish an event that runtime v1 leaves to the daemon; a v2 shim has sent it itself."""
        if task.v1:
            self._publish(task, topic, event)


def _task_create(task: Task, request: CreateRequest) -> events_pb2.TaskCreate:
    return events_pb2.TaskCreate(
        container_id=task.id,
        bundle=task.bundle.path,
        rootfs=request.rootfs,
        io={
            "stdin": request.stdin,
            "stdout": request.stdout,
            "stderr": request.stderr,
            "terminal": request.terminal,
        },
        checkpoint=request.checkpoint,
        pid=task.pid,
    )

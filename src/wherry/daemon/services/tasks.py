"""containerd.services.tasks.v1.Tasks."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from typing import Any, Protocol

from wherry import identifiers
from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.services.tasks.v1 import tasks_pb2 as api
from wherry.api.types.task import task_pb2
from wherry.api.types.types_pb2 import Descriptor, Metric
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.runtime import bundle as bundles
from wherry.daemon.runtime.shim_manager import ShimManager, Task
from wherry.daemon.runtime.task import CreateRequest, ExitStatus
from wherry.errors import DeadlineExceeded, Error, InvalidArgument, NotFound, Unavailable, Unimplemented
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store import filters
from wherry.store.containers import Container, ContainerStore

CHECKPOINT = "application/vnd.containerd.container.criu.checkpoint.criu.tar"
CHECKPOINT_CONFIG = "application/vnd.containerd.container.checkpoint.config.v1+proto"


class Checkpoints(Protocol):
    """Checkpoint archives in the content store."""

    async def unpack(self, namespace: str, digest: str, directory: str) -> None:
        """Unpack a blob into a directory."""

    async def write(self, namespace: str, lease: str, directory: str) -> Descriptor:
        """Store a directory's files as an archive."""

    async def write_bytes(self, namespace: str, lease: str, data: bytes, media_type: str) -> Descriptor:
        """Store some bytes."""


class TasksService(Service):
    """Tasks: containers that run, or did."""

    descriptor = api.DESCRIPTOR.services_by_name["Tasks"]

    def __init__(self, manager: ShimManager, containers: ContainerStore, checkpoints: Checkpoints) -> None:
        self._manager = manager
        self._containers = containers
        self._checkpoints = checkpoints

    def _task(self, request: Any, context: CallContext) -> Task:
        namespace = context.namespace
        try:
            return self._manager.get(namespace, request.container_id)
        except NotFound:
            # The container is asked after first, so that its absence is what is told.
            self._containers.get(namespace, request.container_id)
            raise

    # -- life -------------------------------------------------------------------------------------------------------

    async def create(self, request: Any, context: CallContext) -> api.CreateTaskResponse:
        namespace = context.namespace
        container = self._containers.get(namespace, request.container_id)
        checkpoint, temporary = await self._checkpoint_path(namespace, request)
        try:
            create = CreateRequest(
                list(request.rootfs),
                request.stdin,
                request.stdout,
                request.stderr,
                request.terminal,
                checkpoint,
                _options(container, request),
                _runc_binary(container),
                container.sandbox,
                request.task_api_address,
                request.task_api_version,
            )
            spec = container.spec[1] if container.spec is not None else b"{}"
            runtime = request.runtime_path or container.runtime_name
            task = await self._manager.create(namespace, container.id, runtime, spec, create)
        finally:
            if temporary:
                await asyncio.to_thread(shutil.rmtree, temporary, ignore_errors=True)
        return api.CreateTaskResponse(container_id=task.id, pid=task.pid)

    async def _checkpoint_path(self, namespace: str, request: Any) -> tuple[str, str]:
        """Return the directory to restore from, and the one to remove afterwards; "" for none."""
        if request.options.type_url == "containerd.runc.v1.Options" and request.options.value:
            options = options_pb2.Options.FromString(request.options.value)
            if options.criu_image_path:
                return options.criu_image_path, ""
        if not request.HasField("checkpoint") or not request.checkpoint.digest:
            return "", ""
        if request.checkpoint.annotations.get("RestoreFromPath"):
            return request.checkpoint.annotations["RestoreFromPath"], ""
        if request.checkpoint.media_type != CHECKPOINT:
            raise InvalidArgument(f'unsupported checkpoint type "{request.checkpoint.media_type}"')
        directory = tempfile.mkdtemp(prefix="ctrd-checkpoint")
        try:
            await self._checkpoints.unpack(namespace, request.checkpoint.digest, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        # A restore reads the images when the task is started: they stay as long as its bundle does not have them.
        return directory, ""

    async def start(self, request: Any, context: CallContext) -> api.StartResponse:
        task = self._task(request, context)
        pid = await task.client.start(task.id, request.exec_id)
        if request.exec_id:
            event: Any = events_pb2.TaskExecStarted(container_id=task.id, exec_id=request.exec_id, pid=pid)
            self._manager.publish_v1(task, "/tasks/exec-started", event)
        else:
            task.pid = pid
            self._manager.publish_v1(task, "/tasks/start", events_pb2.TaskStart(container_id=task.id, pid=pid))
        return api.StartResponse(pid=pid)

    async def delete(self, request: Any, context: CallContext) -> api.DeleteResponse:
        task = self._task(request, context)
        try:
            ended = await self._manager.delete(task)
        except Error as error:
            if task.v1:
                raise
            error.message = f"failed to delete task: {error.message}"
            raise
        return _delete_response("", ended)

    async def delete_process(self, request: Any, context: CallContext) -> api.DeleteResponse:
        task = self._task(request, context)
        return _delete_response(request.exec_id, await task.client.delete(task.id, request.exec_id))

    async def kill(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.kill(task.id, request.exec_id, request.signal, request.all)
        return Empty()

    async def exec(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        try:
            identifiers.validate(request.exec_id)
        except InvalidArgument as error:
            named = "" if task.v1 else f" {request.exec_id}"
            raise InvalidArgument(f"invalid exec id{named}: {error.message}") from None
        await task.client.exec(
            task.id,
            request.exec_id,
            request.spec,
            request.stdin,
            request.stdout,
            request.stderr,
            request.terminal,
        )
        return Empty()

    async def pause(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.pause(task.id)
        self._manager.publish_v1(task, "/tasks/paused", events_pb2.TaskPaused(container_id=task.id))
        return Empty()

    async def resume(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.resume(task.id)
        self._manager.publish_v1(task, "/tasks/resumed", events_pb2.TaskResumed(container_id=task.id))
        return Empty()

    async def resize_pty(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.resize(task.id, request.exec_id, request.width, request.height)
        return Empty()

    async def close_io(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.close_io(task.id, request.exec_id, request.stdin)
        return Empty()

    async def update(self, request: Any, context: CallContext) -> Empty:
        task = self._task(request, context)
        await task.client.update(task.id, request.resources, dict(request.annotations))
        return Empty()

    async def wait(self, request: Any, context: CallContext) -> api.WaitResponse:
        task = self._task(request, context)
        ended = await task.client.wait(task.id, request.exec_id)
        return api.WaitResponse(exit_status=ended.status, exited_at=ended.exited_at)

    # -- looks ------------------------------------------------------------------------------------------------------

    async def get(self, request: Any, context: CallContext) -> api.GetResponse:
        task = self._task(request, context)
        return api.GetResponse(process=await _state(task, request.exec_id))

    async def list(self, request: Any, context: CallContext) -> api.ListTasksResponse:
        states = await asyncio.gather(*(_readable(_state(task, "")) for task in self._manager.list(context.namespace)))
        return api.ListTasksResponse(tasks=[state for state in states if state is not None])

    async def list_pids(self, request: Any, context: CallContext) -> api.ListPidsResponse:
        task = self._task(request, context)
        return api.ListPidsResponse(processes=await task.client.pids(task.id))

    async def metrics(self, request: Any, context: CallContext) -> api.MetricsResponse:
        matches = filters.parse_all(request.filters)
        tasks = [task for task in self._manager.list(context.namespace) if matches(_adaptor(task))]
        stats = await asyncio.gather(*(_readable(task.client.stats(task.id)) for task in tasks))
        now = typeurl.now()
        return api.MetricsResponse(
            metrics=[
                Metric(timestamp=now, id=task.id, data=data)
                for task, data in zip(tasks, stats, strict=True)
                if data is not None
            ]
        )

    # -- checkpoint -------------------------------------------------------------------------------------------------

    async def checkpoint(self, request: Any, context: CallContext) -> api.CheckpointTaskResponse:
        task = self._task(request, context)
        container = self._containers.get(task.namespace, task.id)
        image_path = _checkpoint_image_path(request.options)
        directory = image_path or tempfile.mkdtemp(prefix="ctrd-checkpoint")
        try:
            await task.client.checkpoint(task.id, directory, request.options)
            event = events_pb2.TaskCheckpointed(container_id=task.id)
            self._manager.publish_v1(task, "/tasks/checkpointed", event)
            if image_path:
                return api.CheckpointTaskResponse()
            written = await self._checkpoints.write(task.namespace, context.lease, directory)
            url, value = container.spec or ("", b"")
            spec = AnyMessage(type_url=url, value=value).SerializeToString()
            config = await self._checkpoints.write_bytes(task.namespace, context.lease, spec, CHECKPOINT_CONFIG)
            return api.CheckpointTaskResponse(descriptors=[written, config])
        finally:
            if not image_path:
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def _state(task: Task, exec_id: str) -> task_pb2.Process:
    try:
        return await task.client.state(task.id, exec_id)
    except DeadlineExceeded:
        # A stopped shim: its task is there, and how it is nobody can tell.
        return task_pb2.Process(id=exec_id or task.id, pid=task.pid, status=task_pb2.UNKNOWN)
    except Unavailable:
        raise NotFound(f"task {task.id} not found") from None


async def _readable(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except Error:
        return None  # what cannot be read is left out


def _delete_response(id: str, ended: ExitStatus) -> api.DeleteResponse:
    return api.DeleteResponse(id=id, pid=ended.pid, exit_status=ended.status, exited_at=ended.exited_at)


def _options(container: Container, request: Any) -> AnyMessage | None:
    """Return the request's options, else the container's; an empty value with a type URL is an answer of its own."""
    if request.HasField("options") and request.options.type_url:
        options: AnyMessage = request.options
        return options
    if container.runtime_options is None or container.runtime_name == bundles.V1:
        return None
    url, value = container.runtime_options
    return AnyMessage(type_url=url, value=value)


def _runc_binary(container: Container) -> str:
    """Return the OCI runtime that a runtime v1 container's options name."""
    if container.runtime_options is None:
        return ""
    url, value = container.runtime_options
    if url != "containerd.linux.runc.RuncOptions":
        return ""
    return runc_pb2.RuncOptions.FromString(value).runtime


def _checkpoint_image_path(options: AnyMessage) -> str:
    if not options.value:
        return ""
    message = typeurl.unpack(options)
    if not isinstance(message, (options_pb2.CheckpointOptions, runc_pb2.CheckpointOptions)):
        raise Unimplemented(f"checkpoint options {options.type_url}")
    return message.image_path


def _adaptor(task: Task) -> filters.Adaptor:
    def ask(path: list[str]) -> tuple[str, bool]:
        if path == ["id"]:
            return task.id, True
        if path == ["namespace"]:
            return task.namespace, True
        return "", False

    return ask

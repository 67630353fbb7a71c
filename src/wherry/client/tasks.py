"""Tasks: containers that run, did, or are about to."""

from __future__ import annotations

from wherry.api.services.tasks.v1 import tasks_pb2
from wherry.api.types.task import task_pb2
from wherry.client.run import Prepared, Task
from wherry.errors import AlreadyExists, Error, FailedPrecondition, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.api.services.containers.v1.containers_pb2 import Container
    from wherry.api.types.task.task_pb2 import Process as Process
    from wherry.api.types.task.task_pb2 import ProcessInfo as ProcessInfo
    from wherry.api.types.types_pb2 import Metric
    from wherry.client.client import Client

_STATES = {
    task_pb2.CREATED: "created",
    task_pb2.RUNNING: "running",
    task_pb2.STOPPED: "stopped",
    task_pb2.PAUSED: "paused",
    task_pb2.PAUSING: "pausing",
}


class Tasks:
    """A namespace's tasks."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def task(self, id: str) -> Task:
        """Return the task of a container, to be driven."""
        return Task(self._client, id)

    async def get(self, id: str, exec_id: str = "") -> Process:
        """Return the state of a container's process, or of an exec's. NotFound if there is none."""
        request = tasks_pb2.GetRequest(container_id=id, exec_id=exec_id)
        process: Process = (await self._client.tasks.get(request, metadata=self._client.metadata)).process
        return process

    async def state(self, id: str) -> str:
        """Return "created", "running", "stopped", "paused", "pausing" or "unknown". NotFound if there is no task."""
        return state_of(await self.get(id))

    async def pause(self, id: str) -> None:
        """Freeze a container's processes."""
        request = tasks_pb2.PauseTaskRequest(container_id=id)
        await self._client.tasks.pause(request, metadata=self._client.metadata)

    async def resume(self, id: str) -> None:
        """Let them go on."""
        request = tasks_pb2.ResumeTaskRequest(container_id=id)
        await self._client.tasks.resume(request, metadata=self._client.metadata)

    async def end(self, id: str) -> None:
        """Kill what runs of a container, wait for its end, and delete the task; no error if there is none."""
        task = self.task(id)
        try:
            await task.kill(9, all=True)
            if await self.state(id) in ("paused", "pausing"):
                # A frozen process takes even SIGKILL only when it goes on.
                try:
                    await self.resume(id)
                except Error:
                    pass  # to kill all of them, runc has thawed them itself
            await task.wait()
        except (NotFound, FailedPrecondition):
            pass  # it has ended meanwhile
        await task.delete()

    async def prepare(self, container: Container) -> Prepared:
        """Return what a container's new task is created from; the task that has ended, if any, is deleted.

        AlreadyExists if there is one that has not ended.
        """
        try:
            state = await self.state(container.id)
        except NotFound:
            state = ""
        if state == "stopped":
            await self.task(container.id).delete()
        elif state:
            raise AlreadyExists(f'task of container "{container.id}" is {state}')
        mounts = []
        if container.snapshot_key:
            mounts = await self._client.snapshots(container.snapshotter).mounts(container.snapshot_key)
        return Prepared(container.id, mounts, container.snapshotter)

    async def pids(self, id: str) -> list[ProcessInfo]:
        """Return the processes in a container; its execs bear their names."""
        request = tasks_pb2.ListPidsRequest(container_id=id)
        return list((await self._client.tasks.list_pids(request, metadata=self._client.metadata)).processes)

    async def metrics(self, id: str) -> Metric:
        """Return the figures of a container's cgroup. NotFound if there is no task, or none of them can be read."""
        request = tasks_pb2.MetricsRequest(filters=[f"id=={id}"])
        metrics = (await self._client.tasks.metrics(request, metadata=self._client.metadata)).metrics
        if not metrics:
            await self.get(id)
            raise NotFound(f'metrics of container "{id}"')
        metric: Metric = metrics[0]
        return metric

    async def list(self) -> list[Process]:
        """Return the state of all tasks; `id` is the container's."""
        response = await self._client.tasks.list(tasks_pb2.ListTasksRequest(), metadata=self._client.metadata)
        return list(response.tasks)


def state_of(process: Process) -> str:
    """Return a process's state as a word."""
    return _STATES.get(process.status, "unknown")


def exec_of(process: ProcessInfo) -> str:
    """Return the name of the exec that a process was started by; "" for others."""
    from wherry.client.documents import unpacked

    if not process.info.type_url:
        return ""
    try:
        details: Any = unpacked(process.info)
    except Error:
        return ""
    return str(details.get("exec_id", "")) if isinstance(details, dict) else ""


def command_line(pid: int) -> list[str]:
    """Return the words of a process's command line, if it is on this machine; [] if it is not, or has none."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return []
    return words[:-1]

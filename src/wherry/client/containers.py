"""Containers: the records that tasks are made of."""

from __future__ import annotations

import json

from wherry.api.services.containers.v1 import containers_pb2
from wherry.client.documents import nanoseconds, rfc3339
from wherry.client.tasks import Tasks, state_of
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wherry.api.services.containers.v1.containers_pb2 import Container as Container
    from wherry.api.types.task.task_pb2 import Process
    from wherry.client.client import Client


class Containers:
    """A namespace's containers."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, id: str) -> Container:
        """Return a container's record. NotFound if there is none."""
        request = containers_pb2.GetContainerRequest(id=id)
        container: Container = (await self._client.containers.get(request, metadata=self._client.metadata)).container
        return container

    async def remove(self, id: str, *, force: bool = False) -> None:
        """Remove a container with its snapshot and its task, if that does not run; with `force`, kill what runs.

        NotFound if there is none, FailedPrecondition if it runs and may not be killed.
        """
        container = await self.get(id)
        tasks = Tasks(self._client)
        try:
            state = await tasks.state(id)
        except NotFound:
            state = ""
        if state in ("created", "stopped"):
            await tasks.task(id).delete()
        elif state and force:
            await tasks.end(id)
        elif state:
            raise FailedPrecondition(f'container "{id}" is {state}: kill it first, or remove it with --force')
        if container.snapshot_key:
            try:
                await self._client.snapshots(container.snapshotter).remove(container.snapshot_key)
            except NotFound:
                pass  # the record goes all the same
        await self.delete(id)

    async def delete(self, id: str) -> None:
        """Delete a container's record and nothing else. NotFound if there is none."""
        request = containers_pb2.DeleteContainerRequest(id=id)
        await self._client.containers.delete(request, metadata=self._client.metadata)

    async def list(self, filters: Iterable[str] = ()) -> list[Container]:
        """Return the containers that match one of the filters; all of them if there is none."""
        request = containers_pb2.ListContainersRequest(filters=filters)
        stub, metadata = self._client.containers, self._client.metadata
        try:
            # One message a container: all of them in one may be more than a message holds.
            return [each.container async for each in stub.list_stream(request, metadata=metadata)]
        except Unimplemented:
            return list((await stub.list(request, metadata=metadata)).containers)


class ContainerStatus:
    """A container and what its task does."""

    __slots__ = ("command", "container", "process", "state")

    def __init__(self, container: Container, process: Process | None) -> None:
        self.container = container
        #: The task's first process; None without a task.
        self.process = process
        #: "created", "running", "paused", "pausing", "stopped", "unknown"; "" without a task.
        self.state = state_of(process) if process is not None else ""
        #: The words of what it runs.
        self.command = command(container)

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def runs(self) -> bool:
        """Whether there is a process of it, be it waiting to be started."""
        return self.state not in ("", "stopped")

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.runs else None

    @property
    def exit_status(self) -> int | None:
        return self.process.exit_status if self.process is not None and self.state == "stopped" else None

    @property
    def created_at(self) -> int | None:
        """When the record was made, in nanoseconds since the epoch."""
        return nanoseconds(self.container.created_at)

    @property
    def exited_at(self) -> int | None:
        """When the process ended, in nanoseconds since the epoch."""
        return nanoseconds(self.process.exited_at) if self.process is not None else None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        container = self.container
        return {
            "id": container.id,
            "image": container.image,
            "command": self.command,
            "created_at": rfc3339(container.created_at),
            "status": self.state or None,
            "pid": self.pid,
            "exit_status": self.exit_status,
            "exited_at": rfc3339(self.process.exited_at) if self.process is not None else None,
            "runtime": container.runtime.name,
            "snapshotter": container.snapshotter,
            "labels": dict(sorted(container.labels.items())),
        }


async def statuses(client: Client) -> list[ContainerStatus]:
    """Return all containers with what they do, the newest first."""
    containers = await Containers(client).list()
    processes = {process.id: process for process in await Tasks(client).list()}
    found = [ContainerStatus(container, processes.get(container.id)) for container in containers]
    found.sort(key=lambda each: each.created_at or 0, reverse=True)
    return found


def spec(container: Container) -> dict[str, Any]:
    """Return a container's OCI runtime specification; {} if it has none. InvalidArgument for one that is not JSON."""
    if not container.spec.value:
        return {}
    try:
        value = json.loads(container.spec.value)
    except ValueError as error:
        raise InvalidArgument(f'spec of container "{container.id}": not JSON: {error}') from None
    if not isinstance(value, dict):
        raise InvalidArgument(f'spec of container "{container.id}": not a JSON object')
    return value


def command(container: Container) -> list[str]:
    """Return the words of the command that a container runs; [] if its specification names none."""
    process = spec(container).get("process")
    words = process.get("args") if isinstance(process, dict) else None
    return [str(word) for word in words] if isinstance(words, list) else []

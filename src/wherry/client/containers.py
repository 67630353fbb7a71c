"""Containers: the records that tasks are made of."""

from __future__ import annotations

import json

from wherry.api.services.containers.v1 import containers_pb2
from wherry.client.tasks import Tasks
from wherry.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wherry.api.services.containers.v1.containers_pb2 import Container
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

"""What the shim's services share: its containers, and the way in to each operation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wherry import identifiers
from wherry.api import typeurl
from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.types.task import task_pb2
from wherry.api.wellknown_pb2 import Any
from wherry.errors import AlreadyExists, FailedPrecondition, NotFound
from wherry.shim.container import Container, CreateConfig
from wherry.shim.process import Process
from wherry.shim.reaper import Reaper
from wherry.shim.stdio import Stdio
from wherry.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.shim.events import EventSink


class Core:
    """The containers of one shim."""

    def __init__(self, namespace: str, publisher: EventSink, reaper: Reaper, tasks: Tasks, criu: str = "") -> None:
        self.namespace = namespace
        self.containers: dict[str, Container] = {}
        #: Set when the shim is to end.
        self.ended = asyncio.Event()
        #: Whether the shim is a sandbox's, and so goes on without containers.
        self.held = False
        #: Why there can be no new container, "" if there can.
        self.refusal = ""
        #: Set while no container is being created.
        self.settled = asyncio.Event()
        self.settled.set()
        self._creating: set[str] = set()
        self._publisher = publisher
        self._reaper = reaper
        self._tasks = tasks
        self._criu = criu

    def container(self, id: str) -> Container:
        """Return a container. NotFound if there is none of this id."""
        try:
            return self.containers[id]
        except KeyError:
            raise NotFound("container not created") from None

    async def create(self, config: CreateConfig) -> Container:
        """Create a container. AlreadyExists for an id in use; any failure leaves nothing."""
        identifiers.validate(config.id)
        return await self._tasks.run(self._create(config))

    async def _create(self, config: CreateConfig) -> Container:
        id = config.id
        if id in self.containers or id in self._creating:
            raise AlreadyExists(f"container {id}")
        if self.refusal:
            raise FailedPrecondition(self.refusal)
        self._creating.add(id)
        self.settled.clear()
        try:
            container = Container(config, self.namespace, self._publisher, self._reaper, self._tasks, self._criu)
            await container.create()
            self.containers[id] = container
        finally:
            self._creating.discard(id)
            if not self._creating:
                self.settled.set()
        return container

    async def start(self, id: str, exec_id: str) -> int:
        """Start a container's init, or an exec, and return its pid."""
        return await self._tasks.run(self.container(id).start(exec_id))

    async def delete(self, id: str, exec_id: str) -> Process:
        """Delete a container, or an exec, and return the process that it was."""
        container = self.container(id)
        if exec_id:
            return await self._tasks.run(container.delete_exec(exec_id))
        await self._tasks.run(self._delete(container))
        return container.init

    async def _delete(self, container: Container) -> None:
        await container.delete()
        del self.containers[container.id]

    async def exec(self, id: str, exec_id: str, document: Any, stdio: Stdio) -> None:
        """Register an exec. InvalidArgument for an id that is no identifier."""
        container = self.container(id)
        identifiers.validate(exec_id)
        await self._tasks.run(container.add_exec(exec_id, document.value, stdio))

    async def kill(self, id: str, exec_id: str, signal: int, *, all: bool) -> None:
        """Send a signal to a container's init, to all its processes, or to an exec."""
        await self._tasks.run(self.container(id).kill(exec_id, signal, all=all))

    async def pause(self, id: str) -> None:
        """Freeze a container."""
        await self._tasks.run(self.container(id).pause())

    async def resume(self, id: str) -> None:
        """Thaw a container."""
        await self._tasks.run(self.container(id).resume())

    async def update(self, id: str, resources: Any) -> None:
        """Change a container's limits to those of a JSON LinuxResources."""
        await self._tasks.run(self.container(id).update(resources))

    async def checkpoint(self, id: str, path: str, options: Any) -> None:
        """Write a container's state to a directory."""
        await self._tasks.run(self.container(id).checkpoint(path, options))

    def shutdown(self) -> None:
        """End the shim, unless it still holds containers, or is held."""
        if not self.containers and not self._creating and not self.held:
            self.ended.set()


def process_details(container: Container, pids: Sequence[int], *, v1: bool) -> list[task_pb2.ProcessInfo]:
    """Return processes with the ids of those that are execs; v1 tells init's as well."""
    named = {exec_.pid: exec_.id for exec_ in container.execs.values() if exec_.alive}
    if v1:
        named[container.init.pid] = container.id
    details = runc_pb2.ProcessDetails if v1 else options_pb2.ProcessDetails
    return [
        task_pb2.ProcessInfo(pid=pid, info=typeurl.pack(details(exec_id=named[pid])) if pid in named else None)
        for pid in pids
    ]

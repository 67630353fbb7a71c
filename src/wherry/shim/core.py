"""What the shim's services share: its containers, and the way in to each operation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from wherry import identifiers
from wherry.api import typeurl
from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.types.task import task_pb2
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.completion import run_to_completion
from wherry.errors import AlreadyExists, NotFound
from wherry.shim.container import Container, CreateConfig
from wherry.shim.events import Publisher
from wherry.shim.process import Process
from wherry.shim.reaper import Reaper
from wherry.shim.stdio import Stdio

T = TypeVar("T")

#: Seconds that the shim takes at its end to deliver the last events.
_FLUSH_TIMEOUT = 5.0


class Core:
    """The containers of one shim."""

    def __init__(
        self, namespace: str, publisher: Publisher, reaper: Reaper, tasks: asyncio.TaskGroup, criu: str = ""
    ) -> None:
        self._criu = criu
        self.namespace = namespace
        self.containers: dict[str, Container] = {}
        self.ended = asyncio.Event()
        self._creating: set[str] = set()
        self._publisher = publisher
        self._reaper = reaper
        self._tasks = tasks

    def container(self, id: str) -> Container:
        """Return a container. NotFound if there is none of this id."""
        try:
            return self.containers[id]
        except KeyError:
            raise NotFound("container not created") from None

    async def create(self, config: CreateConfig) -> Container:
        """Create a container. AlreadyExists for an id in use; any failure leaves nothing."""
        if config.id in self.containers or config.id in self._creating:
            raise AlreadyExists(f"container {config.id}")
        self._creating.add(config.id)
        try:
            container = Container(config, self.namespace, self._publisher, self._reaper, self._tasks, self._criu)
            await self._whole(container.create())
            self.containers[config.id] = container
        finally:
            self._creating.discard(config.id)
        return container

    async def start(self, id: str, exec_id: str) -> int:
        return await self._whole(self.container(id).start(exec_id))

    async def delete(self, id: str, exec_id: str) -> Process:
        """Delete a container, or an exec, and return the process that it was."""
        container = self.container(id)
        if exec_id:
            return await self._whole(container.delete_exec(exec_id))
        await self._whole(container.delete())
        self.containers.pop(id, None)
        return container.init

    def exec(self, id: str, exec_id: str, spec: AnyMessage, stdio: Stdio) -> None:
        """Register an exec. InvalidArgument for an id that is no identifier."""
        identifiers.validate(exec_id)
        self.container(id).add_exec(exec_id, spec.value, stdio)

    def shutdown(self) -> None:
        """End the shim, unless it still holds containers."""
        if not self.containers and not self._creating:
            self.ended.set()

    async def flush(self) -> None:
        await self._publisher.flush(_FLUSH_TIMEOUT)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        return await run_to_completion(self._tasks, work)


def process_details(container: Container, pids: Sequence[int], *, v1: bool) -> list[task_pb2.ProcessInfo]:
    """Return processes with the ids of those that are execs; v1 tells init's as well."""
    named = {exec_.pid: exec_.id for exec_ in container.execs.values() if exec_.pid}
    if v1:
        named[container.init.pid] = container.id
    details = runc_pb2.ProcessDetails if v1 else options_pb2.ProcessDetails
    return [
        task_pb2.ProcessInfo(pid=pid, info=typeurl.pack(details(exec_id=named[pid])) if pid in named else None)
        for pid in pids
    ]

"""A container as its shim holds it: init, execs, and the order of what happens to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.types import types_pb2
from wherry.api.wellknown_pb2 import Any
from wherry.errors import AlreadyExists, InvalidArgument, NotFound, Unknown
from wherry.shim import metrics, options
from wherry.shim.events import Publisher
from wherry.shim.exec import Exec
from wherry.shim.init import Init, read_spec, shares_pid_namespace
from wherry.shim.oom import OomWatcher
from wherry.shim.process import PAUSED, STOPPED, Process
from wherry.shim.reaper import Reaper
from wherry.shim.runtime import RuncBinary
from wherry.shim.stdio import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message


class CreateConfig:
    """What a create request asks for, whichever version it came in."""

    def __init__(
        self,
        id: str,
        bundle: str,
        rootfs: Sequence[types_pb2.Mount],
        stdio: Stdio,
        checkpoint: str,
        parent_checkpoint: str,
        runtime_options: options.Options,
    ) -> None:
        self.id = id
        self.bundle = bundle
        self.rootfs = rootfs
        self.stdio = stdio
        self.checkpoint = checkpoint
        self.parent_checkpoint = parent_checkpoint
        self.options = runtime_options


class Container:
    """One container. Operations that change it are serialised by its lock; waits and looks are not."""

    def __init__(
        self,
        config: CreateConfig,
        namespace: str,
        publisher: Publisher,
        reaper: Reaper,
        tasks: asyncio.TaskGroup,
        criu: str,
    ) -> None:
        self.id = config.id
        self.bundle = config.bundle
        self.config = config
        self.lock = asyncio.Lock()
        self.execs: dict[str, Exec] = {}
        self._namespace = namespace
        self._publisher = publisher
        self._reaper = reaper
        self._tasks = tasks
        self._options = config.options
        spec = read_spec(config.bundle)
        self._shares_pid_namespace = shares_pid_namespace(spec)
        self._oom: OomWatcher | None = None
        self._cgroups: dict[str, str] = {}
        self._runtime = RuncBinary(
            reaper,
            self._options.binary_name or options.DEFAULT_BINARY,
            options.runtime_root(self._options, namespace),
            os.path.join(config.bundle, "log.json"),
            systemd_cgroup=self._options.systemd_cgroup,
            criu=criu,
        )
        self.init = Init(
            config.id, config.bundle, spec, self._options, config.stdio, self._runtime, reaper, config.checkpoint
        )

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a logging program."""
        return {"CONTAINER_ID": self.id, "CONTAINER_NAMESPACE": self._namespace}

    # -- life -------------------------------------------------------------------------------------------------------

    async def create(self) -> None:
        """Make the container; on failure nothing of it is left."""
        options.write(self.bundle, self._options)
        await self.init.create(self.config.rootfs, self.environment, self._init_exited)
        self._watch_memory()
        stdio = self.config.stdio
        self._publisher.publish(
            "/tasks/create",
            events_pb2.TaskCreate(
                container_id=self.id,
                bundle=self.bundle,
                rootfs=self.config.rootfs,
                io={
                    "stdin": stdio.stdin,
                    "stdout": stdio.stdout,
                    "stderr": stdio.stderr,
                    "terminal": stdio.terminal,
                },
                checkpoint=self.config.checkpoint,
                pid=self.init.pid,
            ),
        )

    async def start(self, exec_id: str) -> int:
        """Start init or an exec and return its pid."""
        process: Process
        if exec_id:
            process = exec_ = self.exec(exec_id)
            await exec_.start(self.environment, self._exec_exited)
            event: Message = events_pb2.TaskExecStarted(container_id=self.id, exec_id=exec_id, pid=process.pid)
            topic = "/tasks/exec-started"
        else:
            process = self.init
            async with self.lock:
                restored = not self.init.pid
                try:
                    await self.init.start(self.environment)
                except BaseException:
                    self.init.release_exit()
                    raise
                if restored:
                    self._watch_memory()
            event = events_pb2.TaskStart(container_id=self.id, pid=process.pid)
            topic = "/tasks/start"
        self._publisher.publish(topic, event)
        process.release_exit()
        return process.pid

    def add_exec(self, id: str, spec: bytes, stdio: Stdio) -> None:
        """Register an exec. AlreadyExists if there is one of this id."""
        if id in self.execs:
            raise AlreadyExists(f"id {id}")
        if self.init.status == PAUSED:
            raise Unknown("cannot exec in a paused state")
        if self.init.status == STOPPED:
            raise Unknown("cannot exec in a stopped state")
        owner = self._options.io_uid, self._options.io_gid
        self.execs[id] = Exec(id, self.id, self.bundle, spec, stdio, self._runtime, self._reaper, owner)
        self._publisher.publish("/tasks/exec-added", events_pb2.TaskExecAdded(container_id=self.id, exec_id=id))

    async def delete(self) -> None:
        """Delete the container once its init has ended, or was never started."""
        async with self.lock:
            await self.init.delete()
            for exec_ in self.execs.values():
                exec_.close()
            if self._oom is not None:
                self._oom.close()
                self._oom = None
        init = self.init
        self._publisher.publish(
            "/tasks/delete",
            events_pb2.TaskDelete(
                container_id=self.id,
                pid=init.pid,
                exit_status=init.exit_status,
                exited_at=typeurl.timestamp(init.exited_at),
            ),
        )

    async def delete_exec(self, id: str) -> Exec:
        """Delete an exec that has ended or never started, and return it."""
        exec_ = self.exec(id)
        await exec_.delete()
        self.execs.pop(id, None)
        return exec_

    # -- looks ------------------------------------------------------------------------------------------------------

    def exec(self, id: str) -> Exec:
        """Return an exec. NotFound if there is none of this id."""
        try:
            return self.execs[id]
        except KeyError:
            raise NotFound(f"process does not exist {id}") from None

    def process(self, exec_id: str) -> Process:
        """Return init for "", else an exec."""
        return self.exec(exec_id) if exec_id else self.init

    async def pids(self) -> list[int]:
        """Return the pids of the container's processes, none when it has ended."""
        if self.init.status == STOPPED:
            return []
        return await self._runtime.pids(self.id)

    def stats(self) -> Message:
        """Return the figures of the container's cgroups."""
        return metrics.collect(self._cgroups)

    # -- what is done to it -----------------------------------------------------------------------------------------

    async def kill(self, exec_id: str, signal: int, all: bool) -> None:
        if exec_id:
            self.exec(exec_id).kill(signal)
        else:
            await self.init.kill(signal, all)

    async def pause(self) -> None:
        async with self.lock:
            await self.init.pause()
        self._publisher.publish("/tasks/paused", events_pb2.TaskPaused(container_id=self.id))

    async def resume(self) -> None:
        async with self.lock:
            await self.init.resume()
        self._publisher.publish("/tasks/resumed", events_pb2.TaskResumed(container_id=self.id))

    async def update(self, resources: Any) -> None:
        if resources.type_url and resources.type_url != typeurl.LINUX_RESOURCES:
            raise InvalidArgument(f"resources of type {resources.type_url}")
        async with self.lock:
            await self.init.update(resources.value)

    async def checkpoint(self, path: str, packed: Any) -> None:
        async with self.lock:
            await self.init.checkpoint(path, options.checkpoint_options(packed))

    async def wait(self, exec_id: str) -> Process:
        """Return the process when it has ended, or can never start."""
        process = self.process(exec_id)
        await process.finished.wait()
        return process

    # -- what happens to it -----------------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        self._cgroups = metrics.cgroup_paths(self.init.pid)
        self._oom = OomWatcher(self._cgroups, self._out_of_memory)

    def _out_of_memory(self) -> None:
        self._publisher.publish("/tasks/oom", events_pb2.TaskOOM(container_id=self.id))

    def _init_exited(self, process: Process) -> None:
        if self._shares_pid_namespace:
            self._tasks.create_task(self._end_the_rest(process))
        else:
            self._announce_exit(process)

    async def _end_the_rest(self, process: Process) -> None:
        await self.init.kill_all()
        self._announce_exit(process)

    def _exec_exited(self, process: Process) -> None:
        self._announce_exit(process)

    def _announce_exit(self, process: Process) -> None:
        self._publisher.publish(
            "/tasks/exit",
            events_pb2.TaskExit(
                container_id=self.id,
                id=process.id,
                pid=process.pid,
                exit_status=process.exit_status,
                exited_at=typeurl.timestamp(process.exited_at),
            ),
        )

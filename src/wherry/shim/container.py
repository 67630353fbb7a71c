"""A container as its shim holds it: init, execs, and the order of what happens to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from wherry.api import typeurl
from wherry.api.events import events_pb2
from wherry.api.types import types_pb2
from wherry.api.types.task import task_pb2
from wherry.api.wellknown_pb2 import Any
from wherry.errors import AlreadyExists, InvalidArgument, NotFound
from wherry.shim import metrics, options, record
from wherry.shim.builtin import BuiltinRuntime
from wherry.shim.exec import Exec
from wherry.shim.init import Init, read_spec, shares_pid_namespace
from wherry.shim.oom import OomWatcher
from wherry.shim.process import Process
from wherry.shim.reaper import Exit, Reaper
from wherry.shim.runtime import RuncBinary, Runtime
from wherry.shim.states import CREATED, DELETED, EXEC_STOPPED, PAUSED, PAUSING, STOPPED
from wherry.shim.stdio import Stdio, Streams
from wherry.shim.tasks import Tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from wherry.shim.events import EventSink

#: 128 + SIGKILL: how the runtime ends an init that was never started.
_KILLED = 137


#: Seconds for the execs of a container without a pid namespace of its own to end after init.
_EXECS_TIMEOUT = 2.0


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
        #: Known, and of no use: an image names the one that it builds on by a link of its own, which CRIU follows.
        self.parent_checkpoint = parent_checkpoint
        self.options = runtime_options


class Container:
    """One container. Operations that change it are serialised by its lock; looks, waits and kills never wait for it."""

    def __init__(
        self,
        config: CreateConfig,
        namespace: str,
        publisher: EventSink,
        reaper: Reaper,
        tasks: Tasks,
        criu: str,
    ) -> None:
        self.id = config.id
        self.bundle = config.bundle
        self.config = config
        self.execs: dict[str, Exec] = {}
        self._lock = asyncio.Lock()
        self._namespace = namespace
        self._publisher = publisher
        self._reaper = reaper
        self._tasks = tasks
        self._options = config.options
        spec = read_spec(config.bundle)
        self._shares_pid_namespace = shares_pid_namespace(spec)
        self._oom: OomWatcher | None = None
        self._cgroups: dict[str, str] = {}
        #: Exits that are not announced yet, in the order of their coming.
        self._exits: list[tuple[Process, Exit]] = []
        self._runtime = self._choose_runtime(criu)
        self.init = Init(
            config.id,
            config.bundle,
            spec,
            self._options,
            config.stdio,
            self._streams(config.stdio, config.id),
            self._runtime,
            reaper,
            self._init_collected,
            config.checkpoint,
        )

    def _choose_runtime(self, criu: str) -> Runtime:
        root = options.runtime_root(self._options, self._namespace)
        systemd_cgroup = self._options.systemd_cgroup
        if options.runtime_binary(self._options) == options.BUILTIN and self._reaper.may_fork:
            return BuiltinRuntime(self._reaper, root, systemd_cgroup=systemd_cgroup, criu=criu)
        binary = options.runtime_program(self._options)
        log = os.path.join(self.bundle, "log.json")
        return RuncBinary(self._reaper, binary, root, log, systemd_cgroup=systemd_cgroup, criu=criu)

    def _streams(self, stdio: Stdio, id: str) -> Streams:
        owner = self._options.io_uid, self._options.io_gid
        return Streams(stdio, id, self._namespace, owner, self._reaper)

    @asynccontextmanager
    async def _locked(self, operation: str) -> AsyncIterator[None]:
        """Hold the lock for an operation that init's state must allow."""
        async with self._lock:
            if self.init.state is DELETED:
                raise NotFound("container not created")
            self.init.state.require(operation)
            yield

    # -- life -------------------------------------------------------------------------------------------------------

    async def create(self) -> None:
        """Make the container; on failure nothing of it is left."""
        options.write(self.bundle, self._options)
        init = self.init
        init.starting = True
        await init.create(self.config.rootfs)
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
                pid=init.pid,
            ),
        )
        init.starting = False
        self._settle()

    async def start(self, exec_id: str) -> int:
        """Start init or an exec and return its pid."""
        return await (self._start_exec(self.exec(exec_id)) if exec_id else self._start_init())

    async def _start_init(self) -> int:
        init = self.init
        async with self._locked("start"):
            init.starting = True
            try:
                await init.start()
                if not self._cgroups:  # it was restored: it has not been before
                    self._watch_memory()
                self._publisher.publish("/tasks/start", events_pb2.TaskStart(container_id=self.id, pid=init.pid))
            finally:
                init.starting = False
                self._settle()
        return init.pid

    async def _start_exec(self, exec_: Exec) -> int:
        async with exec_.lock:
            exec_.state.require("start")
            try:
                await exec_.start()
                event = events_pb2.TaskExecStarted(container_id=self.id, exec_id=exec_.id, pid=exec_.pid)
                self._publisher.publish("/tasks/exec-started", event)
            finally:
                exec_.starting = False
                self._settle()
        return exec_.pid

    async def add_exec(self, id: str, document: bytes, stdio: Stdio) -> None:
        """Register an exec. AlreadyExists if there is one of this id."""
        if id in self.execs:
            raise AlreadyExists(f"id {id}")
        async with self._locked("exec"):
            if id in self.execs:
                raise AlreadyExists(f"id {id}")
            streams = self._streams(stdio, id)
            self.execs[id] = Exec(
                id,
                self.id,
                self.bundle,
                document,
                stdio,
                streams,
                self._runtime,
                self._reaper,
                self._collected,
            )
            self._publisher.publish("/tasks/exec-added", events_pb2.TaskExecAdded(container_id=self.id, exec_id=id))

    async def delete(self) -> None:
        """Delete the container once its init has ended, or was never started."""
        init = self.init
        async with self._locked("delete"):
            await self._execs_ended()
            never_started = init.state is CREATED
            # The runtime ends what it created, and that must not look like an exit of its own.
            init.starting = never_started
            try:
                await init.delete()
            except BaseException:
                init.starting = False
                self._settle()
                raise
            for exec_ in self.execs.values():
                exec_.close()
            if self._oom is not None:
                self._oom.close()
            if never_started:
                self._exits.clear()
                self._announce_exit(init, _KILLED)
        self._publisher.publish(
            "/tasks/delete",
            events_pb2.TaskDelete(
                container_id=self.id,
                pid=init.pid,
                exit_status=init.exit_status,
                exited_at=typeurl.timestamp(init.exited_at),
            ),
        )

    async def _execs_ended(self) -> None:
        """Let the exits come that init's end has caused: they are told before its own, and before the delete."""
        if self.init.alive:
            return  # it was never started; the runtime will end them all
        try:
            async with asyncio.timeout(_EXECS_TIMEOUT):
                for exec_ in self.execs.values():
                    if exec_.pid:
                        await exec_.finished.wait()
        except TimeoutError:
            pass  # it left the container's cgroup, and lives on: not with this container

    async def delete_exec(self, id: str) -> Exec:
        """Delete an exec that has ended or never started, and return it."""
        exec_ = self.exec(id)
        async with exec_.lock:
            if self.execs.get(id) is not exec_:
                raise NotFound(f"process does not exist {id}")
            exec_.state.require("delete")
            await exec_.delete()
            del self.execs[id]
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

    def status(self, process: Process) -> task_pb2.Status:
        """Return the status that a process shows: in a paused container all are."""
        of = self.init if self.init.state in (PAUSING, PAUSED) else process
        return of.state.status

    async def pids(self) -> list[int]:
        """Return the pids of the container's processes, none when it has ended."""
        if self.init.state is STOPPED or not self.init.pid:
            return []
        return await self._runtime.pids(self.id)

    def stats(self) -> Message:
        """Return the figures of the container's cgroups. NotFound before there are any."""
        if not self._cgroups:
            raise NotFound("cgroup does not exist")
        return metrics.collect(self._cgroups)

    async def wait(self, exec_id: str) -> Process:
        """Return the process when it has ended, or can never start."""
        process = self.process(exec_id)
        await process.finished.wait()
        return process

    # -- what is done to it -----------------------------------------------------------------------------------------

    async def kill(self, exec_id: str, signal: int, *, all: bool) -> None:
        if exec_id:
            self.exec(exec_id).kill(signal)
        else:
            await self.init.kill(signal, all=all)

    async def pause(self) -> None:
        async with self._locked("pause"):
            await self.init.pause()
            self._publisher.publish("/tasks/paused", events_pb2.TaskPaused(container_id=self.id))

    async def resume(self) -> None:
        async with self._locked("resume"):
            await self.init.resume()
            self._publisher.publish("/tasks/resumed", events_pb2.TaskResumed(container_id=self.id))

    async def update(self, resources: Any) -> None:
        if resources.type_url and resources.type_url != typeurl.LINUX_RESOURCES:
            raise InvalidArgument(f"resources of type {resources.type_url}")
        async with self._locked("update"):
            await self.init.update(resources.value)

    async def checkpoint(self, path: str, packed: Any) -> None:
        async with self._locked("checkpoint"):
            await self.init.checkpoint(path, options.checkpoint_options(packed))

    # -- what happens to it -----------------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        self._cgroups = metrics.cgroup_paths(self.init.pid) if self.init.pid else {}
        self._oom = OomWatcher(self._cgroups, self._out_of_memory)

    def _out_of_memory(self) -> None:
        self._publisher.publish("/tasks/oom", events_pb2.TaskOOM(container_id=self.id))

    def _init_collected(self, init: Process, ended: Exit) -> None:
        if self._shares_pid_namespace or self.init.state is PAUSED:
            self._tasks.start(self._end_the_rest(init, ended))
        else:
            # The kernel has ended all others of its pid namespace, and their exits came first.
            self._collected(init, ended)

    async def _end_the_rest(self, init: Process, ended: Exit) -> None:
        try:
            if self.init.state is PAUSED:
                await self.init.thaw()
            if self._shares_pid_namespace:
                await self.init.end_the_rest()
                await self._execs_ended()
        finally:
            self._collected(init, ended)

    def _collected(self, process: Process, ended: Exit) -> None:
        if self.init.state is DELETED:
            return  # all has been told
        self._exits.append((process, ended))
        self._settle()

    def _settle(self) -> None:
        """Announce the exits whose turn it is: after the start of the process, and init's after those of its execs."""
        # An exec whose start took longer than it lived is known to have ended only after an init that it ended.
        waiting = sorted(self._exits, key=lambda exit_: exit_[0] is self.init)
        self._exits = []
        exec_is_starting = any(exec_.starting for exec_ in self.execs.values())
        for process, ended in waiting:
            if process.starting or (process is self.init and exec_is_starting):
                self._exits.append((process, ended))
                continue
            if process is self.init:
                # Before anybody is told: whatever becomes of this shim, nobody is told anything else afterwards.
                record.write_exit(self.bundle, ended.status, ended.at)
            process.end(ended, STOPPED if process is self.init else EXEC_STOPPED)
            self._announce_exit(process, process.exit_status)

    def _announce_exit(self, process: Process, status: int) -> None:
        self._publisher.publish(
            "/tasks/exit",
            events_pb2.TaskExit(
                container_id=self.id,
                id=process.id,
                pid=process.pid,
                exit_status=status,
                exited_at=typeurl.timestamp(process.exited_at),
            ),
        )

"""A container's first process: the one whose life is the container's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

from wherry.errors import Error, NotFound, Unknown
from wherry.linux import mount
from wherry.shim.console import ConsoleSocket
from wherry.shim.options import CheckpointOptions, Options
from wherry.shim.process import CREATED, PAUSED, PAUSING, RUNNING, STATE_NAMES, STOPPED, Process, read_pid
from wherry.shim.reaper import Reaper
from wherry.shim.runtime import Runtime
from wherry.shim.stdio import Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.linux.mount import MountLike

_PID_FILE = "init.pid"


class Init(Process):
    """Created by the runtime's create (or its restore, at start), started by its start."""

    def __init__(
        self,
        id: str,
        bundle: str,
        spec: Mapping[str, Any],
        options: Options,
        stdio: Stdio,
        runtime: Runtime,
        reaper: Reaper,
        checkpoint: str,
    ) -> None:
        super().__init__(id, stdio, runtime, reaper)
        self._bundle = bundle
        self._options = options
        self._checkpoint = checkpoint
        self._rootfs = os.path.join(bundle, "rootfs")
        self._mounted = False
        self._has_poststop_hooks = bool((spec.get("hooks") or {}).get("poststop"))
        self._on_exit_later: Callable[[Process], None] | None = None

    async def create(
        self, rootfs: Sequence[MountLike], environment: dict[str, str], on_exit: Callable[[Process], None]
    ) -> None:
        """Mount the root file system, open the streams and have the runtime create the container.

        A failure leaves nothing: mounts, streams, runtime state. A container to be restored is made by `start`.
        """
        async with AsyncExitStack() as undo:
            if rootfs:
                os.makedirs(self._rootfs, mode=0o711, exist_ok=True)
                mount.mount_all(rootfs, self._rootfs)
                self._mounted = True
                undo.callback(self._unmount)
            undo.callback(self.close)
            if self._checkpoint:
                self._on_exit_later = on_exit
            else:
                undo.push_async_callback(self._delete_half_made)
                await self._launch(environment, on_exit, restore=False)
            undo.pop_all()

    async def _launch(self, environment: dict[str, str], on_exit: Callable[[Process], None], *, restore: bool) -> None:
        pid_file = os.path.join(self._bundle, _PID_FILE)
        began = time.time_ns()
        with ConsoleSocket() if self.stdio.terminal else nullcontext() as console:
            socket = console.path if console is not None else ""
            if console is None:
                owner = self._options.io_uid, self._options.io_gid
                await self.streams.open(*owner, self.reaper, environment)
            descriptors = self.streams.descriptors
            no_pivot = self._options.no_pivot_root
            if restore:
                work = self._options.criu_work_path or os.path.join(self._bundle, "work")
                image = self._options.criu_image_path or self._checkpoint
                await self.runtime.restore(self.id, self._bundle, pid_file, descriptors, socket, image, work, no_pivot)
            else:
                await self.runtime.create(
                    self.id, self._bundle, pid_file, descriptors, socket, no_pivot, self._options.no_new_keyring
                )
            if console is not None:
                await self.connect_terminal(console)
        self.streams.started()
        self.pid = read_pid(pid_file)
        self.watch_exit(began, on_exit)

    async def start(self, environment: dict[str, str]) -> None:
        """Let the created process run; or restore the checkpoint that it was created from."""
        if self.status != CREATED:
            raise self.refuse("start")
        self.hold_exit()
        if self._checkpoint and not self.pid:
            assert self._on_exit_later is not None
            await self._launch(environment, self._on_exit_later, restore=True)
        else:
            await self.runtime.start(self.id)
        if self.status == CREATED:
            self.status = RUNNING

    async def kill(self, number: int, all: bool) -> None:
        """Send a signal to it, or to every process of the container. NotFound when it has ended."""
        if self.status == STOPPED and not all:
            raise NotFound("process already finished")
        await self.runtime.kill(self.id, number, all)

    async def pause(self) -> None:
        self._require_running("pause")
        self.status = PAUSING
        try:
            await self.runtime.pause(self.id)
        except Error:
            self._leave_pausing(RUNNING)
            raise
        self._leave_pausing(PAUSED)

    def _leave_pausing(self, status: int) -> None:
        if self.status == PAUSING:  # else it ended meanwhile
            self.status = status  # type: ignore[assignment]

    async def resume(self) -> None:
        if self.status == RUNNING:
            raise self.refuse("resume")
        if self.status != PAUSED:
            raise self._refuse_as_container("resume")
        await self.runtime.resume(self.id)
        if self.status == PAUSED:
            self.status = RUNNING

    async def update(self, resources: bytes) -> None:
        if self.status == STOPPED:
            raise self._refuse_as_container("update")
        await self.runtime.update(self.id, resources)

    async def checkpoint(self, path: str, options: CheckpointOptions) -> None:
        """Write the container's state to a directory with CRIU; its work files go below the bundle's work directory."""
        if self.status == CREATED:
            raise Unknown("cannot checkpoint a task in created state")
        if self.status == STOPPED:
            raise self._refuse_as_container("checkpoint")
        work = options.work_path or os.path.join(self._bundle, "work", "criu-work")
        os.makedirs(work, exist_ok=True)
        await self.runtime.checkpoint(self.id, options.image_path or path, work, options)

    def _require_running(self, verb: str) -> None:
        if self.status != RUNNING:
            raise self._refuse_as_container(verb)

    def _refuse_as_container(self, verb: str) -> Error:
        if self.status == CREATED:
            return Unknown(f"cannot {verb} task in created state")
        return Unknown(f"cannot {verb} a {STATE_NAMES[self.status]} container")

    async def delete(self) -> None:
        """Have the runtime forget the container, let output drain, unmount the root file system.

        Unknown while it runs or is paused. What was created and never started is ended.
        """
        if self.status in (RUNNING, PAUSED, PAUSING):
            raise self.refuse("delete")
        deleting = asyncio.ensure_future(self.runtime.delete(self.id))
        await asyncio.sleep(0)
        # Unmounting waits for the kernel some 10 ms, as long as the runtime takes; a hook may still look at the root.
        if not self._has_poststop_hooks:
            self._unmount()
        await deleting
        if self.status == STOPPED:
            await self.streams.drain()
        self.close()
        self._unmount()

    async def kill_all(self) -> None:
        """End whatever init left behind: the container has no pid namespace of its own to do it."""
        try:
            await self.runtime.kill(self.id, signal.SIGKILL, True)
        except Error:
            return  # nothing was left

    async def _delete_half_made(self) -> None:
        try:
            await self.runtime.delete(self.id, force=True)
        except Error:
            return  # the runtime made nothing, and says so in words of its own

    def _unmount(self) -> None:
        if self._mounted:
            mount.unmount_all(self._rootfs, mount.MNT_DETACH)
            self._mounted = False


def read_spec(bundle: str) -> dict[str, Any]:
    """Return a bundle's specification; an empty one if it cannot be read, as the runtime will say better why."""
    try:
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            spec = json.load(file)
    except (OSError, ValueError):
        return {}
    return spec if isinstance(spec, dict) else {}


def shares_pid_namespace(spec: Mapping[str, Any]) -> bool:
    """Tell whether a specification's container lives in a pid namespace of others, or the specification is no good."""
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return not any(entry.get("type") == "pid" and not entry.get("path") for entry in namespaces)

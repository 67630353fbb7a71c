"""A container's first process: the one whose life is the container's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from typing import Any

from wherry.errors import Error, NotFound, Unknown
from wherry.linux import mount
from wherry.shim.console import ConsoleSocket
from wherry.shim.options import CheckpointOptions, Options
from wherry.shim.process import Process
from wherry.shim.reaper import Exit, Reaper
from wherry.shim.runtime import Launch, Runtime
from wherry.shim.states import CREATED, CREATED_FROM_CHECKPOINT, DELETED, PAUSED, PAUSING, RUNNING, STOPPED, State
from wherry.shim.stdio import Stdio, Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.linux.mount import MountLike

_PID_FILE = "init.pid"


class Init(Process):
    """Created by the runtime's create (or, from a checkpoint, by its restore at start), started by its start."""

    def __init__(
        self,
        id: str,
        bundle: str,
        spec: Mapping[str, Any],
        options: Options,
        stdio: Stdio,
        streams: Streams,
        runtime: Runtime,
        reaper: Reaper,
        on_exit: Callable[[Process, Exit], None],
        checkpoint: str,
    ) -> None:
        state = CREATED_FROM_CHECKPOINT if checkpoint else CREATED
        super().__init__(id, state, stdio, streams, runtime, reaper, on_exit)
        self._bundle = bundle
        self._options = options
        self._checkpoint = checkpoint
        self._rootfs = os.path.join(bundle, "rootfs")
        self._pid_file = os.path.join(bundle, _PID_FILE)
        self._mounted = False
        self._has_poststop_hooks = bool((spec.get("hooks") or {}).get("poststop"))

    # -- life -------------------------------------------------------------------------------------------------------

    async def create(self, rootfs: Sequence[MountLike]) -> None:
        """Mount the root file system, open the streams and have the runtime create the container.

        A failure leaves nothing: mounts, streams, runtime state. A container to be restored is made by `start`.
        """
        async with AsyncExitStack() as undo:
            undo.callback(self._unmount)
            self._mount(rootfs)
            undo.callback(self.close)
            if self.state is CREATED:
                await self._launch(self._create)
            undo.pop_all()

    def _mount(self, rootfs: Sequence[MountLike]) -> None:
        if not rootfs:
            return  # the spec's root.path stands as it is
        os.makedirs(self._rootfs, mode=0o711, exist_ok=True)
        self._mounted = True
        for component in rootfs:
            try:
                mount.mount_one(component, self._rootfs)
            except OSError as error:
                described = f"&{{{component.type} {component.source} [{' '.join(component.options)}]}}"
                reason = (error.strerror or str(error)).lower()
                raise Unknown(f"failed to mount rootfs component {described}: {reason}") from None

    async def _create(self, launch: Launch) -> None:
        options = self._options
        await self.runtime.create(
            self.id,
            self._bundle,
            launch,
            no_pivot=options.no_pivot_root,
            no_new_keyring=options.no_new_keyring,
        )

    async def _restore(self, launch: Launch) -> None:
        options = self._options
        work = options.criu_work_path or os.path.join(self._bundle, "work")
        image = options.criu_image_path or self._checkpoint
        await self.runtime.restore(self.id, self._bundle, launch, image, work, no_pivot=options.no_pivot_root)

    async def _launch(self, run: Callable[[Launch], Awaitable[None]]) -> None:
        """Run the runtime with our streams and adopt what it made. A failure leaves no container and no pid file."""
        async with AsyncExitStack() as undo:
            undo.callback(_unlink, self._pid_file)
            with ConsoleSocket(self._bundle, self.id) if self.stdio.terminal else nullcontext() as socket:
                if socket is None:
                    await self.streams.open()
                with self.reaper.adopting():
                    await run(Launch(self._pid_file, self.streams.descriptors, socket.path if socket else ""))
                    undo.push_async_callback(self._delete_half_made)
                    if socket is not None:
                        await self.connect_terminal(socket)
                    self.streams.started()
                    self.adopt(self._pid_file)
            undo.pop_all()

    async def _delete_half_made(self) -> None:
        try:
            await self.runtime.delete(self.id, force=True)
        except Error:
            return  # the failure before this one is what the caller is told

    async def start(self) -> None:
        """Let the created process run; or restore the checkpoint that it was created from."""
        if self.state is CREATED_FROM_CHECKPOINT:
            await self._launch(self._restore)
        else:
            await self.runtime.start(self.id)
        if self.state in (CREATED, CREATED_FROM_CHECKPOINT):
            self.state = RUNNING

    async def delete(self) -> None:
        """Have the runtime forget the container, let output drain, unmount the root file system."""
        deleting = asyncio.ensure_future(self.runtime.delete(self.id))
        try:
            await asyncio.sleep(0)
            # Unmounting takes the kernel some 10 ms, as long as the runtime takes; a hook may still look at the root.
            if not self._has_poststop_hooks:
                self._unmount()
        finally:
            await deleting
        await self.finish()
        self._unmount()
        self.state = DELETED
        self.finished.set()

    def _unmount(self) -> None:
        if self._mounted:
            mount.unmount_all(self._rootfs, mount.MNT_DETACH)
            self._mounted = False

    # -- what is done to it -----------------------------------------------------------------------------------------

    async def kill(self, number: int, *, all: bool) -> None:
        """Send a signal to it, or to every process of the container. NotFound when it has ended."""
        if self.state is STOPPED and not all:
            raise NotFound("process already finished")
        await self.runtime.kill(self.id, number, all=all)

    async def pause(self) -> None:
        self.state = PAUSING
        try:
            await self.runtime.pause(self.id)
        except Error:
            self._leave(PAUSING, RUNNING)
            raise
        self._leave(PAUSING, PAUSED)

    async def resume(self) -> None:
        await self.runtime.resume(self.id)
        self._leave(PAUSED, RUNNING)

    def _leave(self, old: State, new: State) -> None:
        if self.state is old:  # else it ended meanwhile
            self.state = new

    async def update(self, resources: bytes) -> None:
        await self.runtime.update(self.id, resources)

    async def checkpoint(self, path: str, options: CheckpointOptions) -> None:
        """Write the container's state to a directory with CRIU.

        CRIU's work files go where the options say; else they are removed, but its log is kept in the bundle on failure.
        """
        work = options.work_path or os.path.join(self._bundle, "work", "criu-work")
        os.makedirs(work, exist_ok=True)
        try:
            await self.runtime.checkpoint(self.id, options.image_path or path, work, options)
        except Error as error:
            kept = os.path.join(self._bundle, "criu-dump.log")
            try:
                shutil.copyfile(os.path.join(work, "dump.log"), kept)
            except OSError:
                pass  # CRIU did not even start
            raise Unknown(f"{error.message.splitlines()[0]} path= {kept}{_criu_reason(kept)}") from None
        finally:
            if not options.work_path:
                shutil.rmtree(work, ignore_errors=True)

    # -- its end ----------------------------------------------------------------------------------------------------

    async def end_the_rest(self) -> None:
        """End whatever init left behind: the container has no pid namespace of its own to do it."""
        try:
            await self.runtime.kill(self.id, signal.SIGKILL, all=True)
        except Error:
            return  # nothing was left

    async def thaw(self) -> None:
        """Let what is left of a paused container end."""
        try:
            await self.runtime.resume(self.id)
        except Error:
            return  # nothing was left


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
    try:
        namespaces = spec["linux"]["namespaces"]
        return not any(entry.get("type") == "pid" and not entry.get("path") for entry in namespaces)
    except (KeyError, TypeError, AttributeError):
        return True


def _criu_reason(log: str) -> str:
    """Return the first error of CRIU's log, in brackets: the runtime's message tells only that there is one."""
    try:
        with open(log, errors="replace") as file:
            for line in file:
                _time, marked, reason = line.partition("Error ")
                if marked:
                    return f" ({reason.strip()})"
    except OSError:
        pass  # CRIU did not even start
    return ""


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return

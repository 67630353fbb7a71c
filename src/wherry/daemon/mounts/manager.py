"""Activations: lists of mounts of which a client can make only the last by itself, made up to there by the daemon.

What is mounted for one activation is below one directory: mount points 0, 1, … and beside each, N.json, what is mounted
there, written before it is. So whatever is found there can be taken away, whether the database knows of it or not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from weakref import WeakValueDictionary

from wherry.api.types import types_pb2
from wherry.completion import run_to_completion
from wherry.daemon.mounts.handlers import HANDLERS, attached, handler
from wherry.daemon.mounts.transforms import Transformer
from wherry.errors import NotFound, Unimplemented, Unknown
from wherry.linux.mount import Mount
from wherry.store.mounts import Activation, ActiveMount, MountStore

log = logging.getLogger(__name__)

#: containerd's name for its mount manager, and for the directory of mount points in it.
_PLACE = "io.containerd.mount-manager.v1.bolt/t"

#: The label that holds mounts for as long as there is a container.
_CONTAINER = "containerd.io/gc.bref.container"


class MountManager:
    """The mounts of one daemon."""

    def __init__(self, store: MountStore, *, root: str, state: str, tasks: asyncio.TaskGroup) -> None:
        """Mount points are made below `state`; directories and images that mounts ask for below `root` or there."""
        self._store = store
        self._targets = os.path.join(os.path.abspath(state), _PLACE)
        self._transformer = Transformer([os.path.abspath(root), self._targets])
        self._tasks = tasks
        #: Held while a name is activated.
        self._naming: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        #: Held while something is unmounted.
        self._clearing = asyncio.Lock()

    async def start(self) -> None:
        """Make an end of what the daemon before this one did not finish, or what is not mounted any more."""
        os.makedirs(self._targets, mode=0o700, exist_ok=True)
        present = await asyncio.to_thread(_mount_points)
        for activation in self._store.all():
            if not activation.complete or not all(_is_there(active, present) for active in activation.active):
                log.info("mounts of %s/%s are gone", activation.namespace, activation.name)
                await self._store.remove(activation.id)
        await self._clear_leftovers()

    # -- activate ---------------------------------------------------------------------------------------------------

    async def activate(
        self,
        namespace: str,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: dict[str, str],
        temporary: bool = False,
        lease: str = "",
    ) -> Activation:
        """Make the mounts that the caller cannot make, all of them if `temporary`; return them, and what is left to do.

        Unimplemented if the caller can make all of them; AlreadyExists for a name in use.
        """
        count = _to_make(mounts, temporary)
        if count < 0:
            raise Unimplemented
        async with self._naming.setdefault((namespace, name), asyncio.Lock()):
            work = self._activate(namespace, name, mounts, count, labels, lease)
            return await run_to_completion(self._tasks, work)

    async def _activate(
        self, namespace: str, name: str, mounts: Sequence[Mount], count: int, labels: dict[str, str], lease: str
    ) -> Activation:
        id = await self._store.begin(namespace, name, labels, lease)
        directory = os.path.join(self._targets, str(id))
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._store.remove, id)
            undo.push_async_callback(self._clear, directory)
            os.makedirs(directory, 0o700)
            active: list[ActiveMount] = []
            for index, mount in enumerate(mounts[:count]):
                made = await self._transformed(mount, active)
                active.append(await asyncio.to_thread(_make, made, directory, index))
            system = list(mounts[count:])
            if system:
                system[0] = await self._transformed(system[0], active)
            else:
                # The caller has to mount something, too: where all of it is already.
                system.append(Mount("bind", active[-1].mount_point, ["rbind"]))
            await self._store.finish(id, active, system)
            undo.pop_all()
        return self._store.get(namespace, name)

    async def _transformed(self, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        for word in _words(mount.type)[0]:
            mount = await self._transformer.apply(word, mount, active)
        return mount

    # -- deactivate -------------------------------------------------------------------------------------------------

    async def deactivate(self, namespace: str, name: str) -> None:
        """Forget an activation and unmount what was mounted for it. NotFound if there is none of this name.

        What is in use stays mounted, which is raised as Unknown, and is tried again with every collection.
        """
        self._store.get(namespace, name)  # without a write where there is nothing to do
        activation = await self._store.take(namespace, name)
        await run_to_completion(self._tasks, self._clear(self._directory(activation)))

    # -- tasks ------------------------------------------------------------------------------------------------------

    async def activate_rootfs(self, namespace: str, id: str, mounts: list[types_pb2.Mount]) -> list[types_pb2.Mount]:
        """Return the mounts of a task's root file system as its shim can make them; the task's id is their name."""
        wanted = [Mount(each.type, each.source, each.options, each.target) for each in mounts]
        if _to_make(wanted, temporary=False) < 0:
            return mounts
        # There is no such task: this is what one left that nobody saw end.
        await self.deactivate_rootfs(namespace, id)
        activation = await self.activate(namespace, id, wanted, labels={_CONTAINER: id})
        return [
            types_pb2.Mount(type=each.type, source=each.source, target=each.target, options=each.options)
            for each in activation.system
        ]

    async def deactivate_rootfs(self, namespace: str, id: str) -> None:
        """Take away what was mounted for a task, if anything was. What is in use goes with a later collection."""
        try:
            if self._store.get(namespace, id).labels.get(_CONTAINER) == id:
                await self.deactivate(namespace, id)
        except NotFound:
            return
        except Unknown as error:
            log.warning("root file system of %s/%s: %s", namespace, id, error.message)

    # -- what is left -----------------------------------------------------------------------------------------------

    async def collect(self) -> None:
        """Take away the activations that nothing holds any more, and what could not be taken away before."""
        if self._store.none() and not self._entries():
            return
        for activation in await self._store.take_unheld():
            log.info("mounts %s/%s collected", activation.namespace, activation.name)
        await self._clear_leftovers()

    async def _clear_leftovers(self) -> None:
        """Unmount what no activation is known for."""
        # In this order: an activation is recorded before it has a directory.
        found = self._entries()
        known = self._store.ids()
        for entry in found:
            if int(entry) not in known:
                try:
                    await self._clear(os.path.join(self._targets, entry))
                except Unknown as error:
                    log.warning("%s", error.message)

    def _entries(self) -> list[str]:
        try:
            return [entry for entry in os.listdir(self._targets) if entry.isdecimal()]
        except FileNotFoundError:
            return []  # somebody has tidied up: nothing is mounted below it

    def _directory(self, activation: Activation) -> str:
        return os.path.join(self._targets, str(activation.id))

    async def _clear(self, directory: str) -> None:
        async with self._clearing:
            try:
                await asyncio.to_thread(_take_away, directory)
            except OSError as error:
                raise Unknown(f"unmount {error.filename}: {(error.strerror or str(error)).lower()}") from None


def _words(type: str) -> tuple[list[str], str]:
    """Return what the type of a mount asks for first, and the type that is to be mounted then."""
    words = []
    word, slash, rest = type.partition("/")
    while slash and word in Transformer.WORDS:
        words.append(word)
        type = rest
        word, slash, rest = type.partition("/")
    return words, type


def _to_make(mounts: Sequence[Mount], temporary: bool) -> int:
    """Return how many of the mounts the daemon has to make; -1 if it has nothing to do at all.

    With 0 there is still the first to be transformed. Others than the first of what is left have nothing to transform.
    """
    count = -1
    for index, mount in enumerate(mounts):
        words, type = _words(mount.type)
        if words:
            count = index  # what it is made from must be there
        if type in HANDLERS or temporary:
            count = index + 1
    return count


def _make(mount: Mount, directory: str, index: int) -> ActiveMount:
    mount_point = os.path.join(directory, str(index))
    values = {"type": mount.type, "source": mount.source, "target": mount.target, "options": mount.options}
    with open(f"{mount_point}.json", "w") as file:
        json.dump(values, file)
    try:
        handler(mount.type).mount(mount, mount_point)
    except OSError as error:
        raise Unknown(f"mount failed {mount}: {(error.strerror or str(error)).lower()}") from None
    return ActiveMount(mount, mount_point, time.time_ns())


def _take_away(directory: str) -> None:
    """Unmount what is below an activation's directory, the last first, and remove it. Raises OSError."""
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        return
    numbers = {int(entry.removesuffix(".json")) for entry in entries if entry.removesuffix(".json").isdecimal()}
    for index in sorted(numbers, reverse=True):
        mount_point = os.path.join(directory, str(index))
        try:
            with open(f"{mount_point}.json") as file:
                values = json.load(file)
            mount = Mount(values["type"], values["source"], values["options"], values["target"])
        except (ValueError, FileNotFoundError):
            pass  # written before it was mounted: so it was not
        else:
            handler(mount.type).unmount(mount, mount_point)
        # Never what is in it: it may be somebody's, if it is mounted all the same.
        _remove(os.rmdir, mount_point)
        _remove(os.unlink, f"{mount_point}.json")
    _remove(os.rmdir, directory)


def _remove(how: object, path: str) -> None:
    assert callable(how)
    try:
        how(path)
    except FileNotFoundError:
        return


def _mount_points() -> set[str]:
    """Return the mount points of this mount namespace; proc(5), mountinfo."""
    with open("/proc/self/mountinfo", "rb") as file:
        fields = [line.split()[4] for line in file]
    return {os.fsdecode(field.replace(b"\\040", b" ").replace(b"\\134", b"\\")) for field in fields}


def _is_there(active: ActiveMount, present: set[str]) -> bool:
    if active.mount.type != "loop":
        return os.path.realpath(active.mount_point) in present
    try:
        return attached(active.mount, os.readlink(active.mount_point))
    except OSError:
        return False

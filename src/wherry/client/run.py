"""Running a container: from an image's name to an exit status, everything undone on failure.

The coroutines await nothing but the channel, so they run over every channel.
"""

from __future__ import annotations

import os
import time

from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.tasks.v1 import tasks_pb2
from wherry.api.typeurl import SPEC, pack
from wherry.api.wellknown_pb2 import Any
from wherry.client.rootfs import read_files
from wherry.errors import AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound
from wherry.oci import json_text
from wherry.oci import spec as oci_spec
from wherry.oci.manifest import chain_ids
from wherry.oci.user import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    import typing
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.api.types.types_pb2 import Mount
    from wherry.client.client import Client
    from wherry.client.images import ImageManifest

RUNTIME = "io.containerd.runc.v2"
RUNTIME_V1 = "io.containerd.runtime.v1.linux"

#: wherryd's snapshotters know it, and to others it is a label like any.
VOLATILE = "wherry/volatile"

#: Marks containers whose image's config names another signal than SIGTERM to stop with.
STOP_SIGNAL_LABEL = "io.containerd.image.config.stop-signal"

_PASSWD, _GROUP = "/etc/passwd", "/etc/group"


class ImageNotFound(NotFound):
    """There is no image of that name."""


class Timing:
    """How long each step took, in milliseconds, for who asks."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []
        self._last = time.perf_counter()

    def step(self, name: str) -> None:
        now = time.perf_counter()
        self.steps.append((name, (now - self._last) * 1000))
        self._last = now

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.steps)


class RunOptions:
    """What a container is to be. Everything but the arguments has a default that changes nothing."""

    def __init__(self, args: Sequence[str] = ()) -> None:
        self.args = list(args)
        self.id = ""
        #: None leaves the image's.
        self.entrypoint: list[str] | None = None
        self.env: list[str] = []
        self.mounts: list[str] = []
        self.labels: dict[str, str] = {}
        self.read_only = False
        self.privileged = False
        self.terminal = False
        self.host_network = False
        self.user = ""
        self.cwd = ""
        self.hostname = ""
        self.cap_add: list[str] = []
        self.cap_drop: list[str] = []
        #: Bytes; 0 for no limit.
        self.memory = 0
        self.cpus = 0.0
        self.pids_limit = 0
        #: Whether the container is removed at its end, so that what it writes to its root need not last.
        self.volatile = False
        self.runtime = RUNTIME
        self.runc_binary = ""
        self.snapshotter = ""
        #: A directory to run instead of an image's snapshot.
        self.rootfs = ""


class Prepared:
    """A container's record, and the mounts of its root."""

    def __init__(self, id: str, mounts: list[Mount], snapshotter: str) -> None:
        self.id = id
        self.mounts = mounts
        #: "" for a root directory of the user's own.
        self.snapshotter = snapshotter


_LEFT = (
    "brave calm clever eager gentle happy jolly keen lively merry nimble proud quick quiet sunny swift witty".split()
)
_RIGHT = (
    "barge canoe clipper cutter dinghy ferry frigate galley kayak ketch lugger punt schooner skiff sloop yawl".split()
)


def random_name() -> str:
    """Return a name for a container that was given none."""
    chance = os.urandom(4)
    return f"{_LEFT[chance[0] % len(_LEFT)]}-{_RIGHT[chance[1] % len(_RIGHT)]}-{chance[2:].hex()}"


async def create_container(client: Client, image: str, options: RunOptions, timing: Timing) -> Prepared:
    """Make a container's snapshot and record. A failure leaves neither.

    NotFound for an image that is not there, InvalidArgument for options that cannot be.
    """
    id = options.id or random_name()
    if options.rootfs:
        return await _create_on_directory(client, id, options, timing)
    stored, found = await _find_image(client, image)
    timing.step("image")
    chains = list(chain_ids(found.diff_ids()))
    chain = chains[-1] if chains else ""
    async with client.leases.hold() as lease:
        snapshots = client.snapshots(options.snapshotter, lease.id)
        labels = {VOLATILE: "true"} if options.volatile else {}
        try:
            mounts = await snapshots.prepare(id, chain, labels)
        except NotFound:
            await client.images.unpack(stored, snapshotter=options.snapshotter)
            timing.step("unpack")
            mounts = await snapshots.prepare(id, chain, labels)
        except AlreadyExists:
            raise AlreadyExists(
                f'container "{id}": choose another --name, or remove it with `wherry rm {id}`'
            ) from None
        timing.step("snapshot")
        try:
            spec = _image_spec(client.namespace, id, found, options, mounts)
            await _store(client, id, image, spec, options, snapshots.snapshotter, found.config)
        except BaseException:
            await snapshots.remove(id)
            raise
    timing.step("container")
    return Prepared(id, mounts, snapshots.snapshotter)


async def _find_image(client: Client, name: str) -> tuple[Image, ImageManifest]:
    try:
        image = await client.images.get(name)
    except NotFound:
        from wherry.oci.reference import normalize

        try:
            image = await client.images.get(normalize(name))
        except (NotFound, InvalidArgument):
            raise ImageNotFound(
                f'image "{name}": `wherry image ls` lists those there are, `wherry image import` brings in others'
            ) from None
    from wherry.client.images import descriptor_of

    return image, await client.images.manifest(descriptor_of(image))


async def _create_on_directory(client: Client, id: str, options: RunOptions, timing: Timing) -> Prepared:
    rootfs = os.path.abspath(options.rootfs)
    if not os.path.isdir(rootfs):
        raise NotFound(f"root file system {rootfs}")
    spec = oci_spec.default_spec(client.namespace, id)
    spec["root"]["path"] = rootfs
    oci_spec.set_image_config(spec, {}, options.args, options.entrypoint)
    _apply(spec, options)
    from wherry.client.rootfs_mounted import read_files_below

    passwd, group = read_files_below(rootfs, (_PASSWD, _GROUP))
    spec["process"]["user"] = resolve(options.user, passwd, group).to_json()
    await _store(client, id, "", spec, options, "", {})
    timing.step("container")
    return Prepared(id, [], "")


def _image_spec(
    namespace: str, id: str, image: ImageManifest, options: RunOptions, mounts: Sequence[Mount]
) -> dict[str, typing.Any]:
    spec = oci_spec.default_spec(namespace, id)
    config = image.config.get("config") or {}
    oci_spec.set_image_config(spec, config, options.args, options.entrypoint)
    _apply(spec, options)
    passwd, group = read_files(mounts, (_PASSWD, _GROUP))
    spec["process"]["user"] = resolve(options.user or config.get("User") or "", passwd, group).to_json()
    return spec


def _apply(spec: dict[str, typing.Any], options: RunOptions) -> None:
    """Change a specification as the options say."""
    if options.terminal:
        oci_spec.set_terminal(spec)
    oci_spec.add_environment(spec, options.env)
    if options.cwd:
        spec["process"]["cwd"] = options.cwd
    if options.hostname:
        spec["hostname"] = options.hostname
    if options.read_only:
        spec["root"]["readonly"] = True
    if options.privileged:
        oci_spec.set_privileged(spec)
    oci_spec.change_capabilities(spec, options.cap_add, options.cap_drop)
    for mount in options.mounts:
        oci_spec.add_mount(spec, mount)
    if options.host_network:
        oci_spec.share_host_network(spec, os.uname().nodename)
    if options.memory:
        oci_spec.limit_memory(spec, options.memory)
    if options.cpus:
        oci_spec.limit_cpus(spec, options.cpus)
    if options.pids_limit:
        oci_spec.limit_pids(spec, options.pids_limit)


async def _store(
    client: Client,
    id: str,
    image: str,
    spec: Mapping[str, typing.Any],
    options: RunOptions,
    snapshotter: str,
    config: Mapping[str, typing.Any],
) -> None:
    labels = dict((config.get("config") or {}).get("Labels") or {})
    stop_signal = (config.get("config") or {}).get("StopSignal")
    if stop_signal:
        labels[STOP_SIGNAL_LABEL] = stop_signal
    labels.update(options.labels)
    container = containers_pb2.Container(
        id=id,
        image=image,
        labels=labels,
        runtime=containers_pb2.Container.Runtime(name=options.runtime, options=_runtime_options(options)),
        spec=Any(type_url=SPEC, value=json_text.dumps(spec, colon=":", comma=",").encode()),
        snapshotter=snapshotter,
        snapshot_key=id if snapshotter else "",
    )
    request = containers_pb2.CreateContainerRequest(container=container)
    await client.containers.create(request, metadata=client.metadata)


def _runtime_options(options: RunOptions) -> Any | None:
    if not options.runc_binary:
        return None
    if options.runtime == RUNTIME_V1:
        return pack(runc_pb2.RuncOptions(runtime=options.runc_binary))
    return pack(options_pb2.Options(binary_name=options.runc_binary))


async def remove_container(client: Client, id: str, snapshotter: str) -> None:
    """Remove a container's snapshot and record; no error for what is gone."""
    if snapshotter:
        try:
            await client.snapshots(snapshotter).remove(id)
        except NotFound:
            pass  # the record goes all the same
    try:
        await client.containers.delete(containers_pb2.DeleteContainerRequest(id=id), metadata=client.metadata)
    except NotFound:
        return


class Task:
    """A container's task."""

    def __init__(self, client: Client, id: str) -> None:
        self.client = client
        self.id = id
        self.pid = 0

    @classmethod
    async def create(
        cls, client: Client, prepared: Prepared, stdin: str, stdout: str, stderr: str, terminal: bool
    ) -> Task:
        """Have the daemon create the container; its process waits to be started."""
        request = tasks_pb2.CreateTaskRequest(
            container_id=prepared.id,
            rootfs=prepared.mounts,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
        )
        task = cls(client, prepared.id)
        task.pid = (await client.tasks.create(request, metadata=client.metadata)).pid
        return task

    async def start(self, exec_id: str = "") -> int:
        """Start the container's process, or an exec; return its pid."""
        request = tasks_pb2.StartRequest(container_id=self.id, exec_id=exec_id)
        pid: int = (await self.client.tasks.start(request, metadata=self.client.metadata)).pid
        return pid

    async def wait(self, exec_id: str = "") -> int:
        """Return the exit status, when the process has ended."""
        request = tasks_pb2.WaitRequest(container_id=self.id, exec_id=exec_id)
        status: int = (await self.client.tasks.wait(request, metadata=self.client.metadata)).exit_status
        return status

    async def exec(
        self, exec_id: str, process: Mapping[str, typing.Any], stdin: str, stdout: str, stderr: str, terminal: bool
    ) -> None:
        """Register an exec of an OCI process document."""
        from wherry.api.typeurl import PROCESS

        request = tasks_pb2.ExecProcessRequest(
            container_id=self.id,
            exec_id=exec_id,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            terminal=terminal,
            spec=Any(type_url=PROCESS, value=json_text.dumps(process).encode()),
        )
        await self.client.tasks.exec(request, metadata=self.client.metadata)

    async def delete(self, exec_id: str = "") -> None:
        """Delete the task, or an exec; no error if it is gone."""
        metadata = self.client.metadata
        try:
            if exec_id:
                request = tasks_pb2.DeleteProcessRequest(container_id=self.id, exec_id=exec_id)
                await self.client.tasks.delete_process(request, metadata=metadata)
            else:
                await self.client.tasks.delete(tasks_pb2.DeleteTaskRequest(container_id=self.id), metadata=metadata)
        except NotFound:
            return

    async def kill(self, signal: int, exec_id: str = "", *, all: bool = False) -> None:
        """Send a signal."""
        request = tasks_pb2.KillRequest(container_id=self.id, exec_id=exec_id, signal=signal, all=all)
        await self.client.tasks.kill(request, metadata=self.client.metadata)

    async def end(self) -> None:
        """Kill whatever runs and delete the task, however it is."""
        try:
            await self.kill(9, all=True)
            await self.wait()
        except (NotFound, FailedPrecondition):
            pass  # it has ended, or there is none
        except Error:
            pass  # created and never started: Delete ends it
        await self.delete()


async def start_attached(task: Task, exec_id: str, opened: Callable[[], None], timing: Timing | None = None) -> int:
    """Start a process whose streams are connected, wait for its end and return its status."""
    await task.start(exec_id)
    opened()
    if timing is not None:
        timing.step("start")
    status = await task.wait(exec_id)
    if timing is not None:
        timing.step("run")
    return status

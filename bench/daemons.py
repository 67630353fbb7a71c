"""What the benchmarks share: wherryd and Debian's containerd side by side in one place, and all of it cleaned up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from wherry.api.services.containers.v1 import containers_pb2
from wherry.client.client import Client
from wherry.client.run import RunOptions, Task, Timing, create_container, remove_container
from wherry.client.tasks import Tasks
from wherry.errors import Error
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel

BIN = Path(sys.executable).parent
IMAGE = "docker.io/library/bench:latest"
OUR_SHIM = str(BIN / "containerd-shim-wherry-v2")

#: The OCI runtimes that a shim of ours is told to use: its own, and Debian's.
BUILTIN = "wherry-runc"
RUNC = "runc"

_CONTAINERD_CONFIG = """
version = 2
root = "{place}/croot"
state = "{place}/cstate"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{place}/c.sock"
[ttrpc]
address = "{place}/c.sock.ttrpc"
"""

#: As a user's: compiled modules are kept.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

_CGROUPS = Path("/sys/fs/cgroup")
_RUNC = Path("/run/containerd/runc")
_BUILTIN_STATE = Path("/run/wherry/runc")


@dataclass(frozen=True)
class Daemon:
    """A daemon that runs: its process, its socket, and the namespace that a benchmark uses in it."""

    pid: int
    socket: str
    namespace: str


@dataclass(frozen=True)
class Daemons:
    """Both sides, and the directory that they live in."""

    place: str
    wherryd: Daemon
    containerd: Daemon

    @property
    def wherry(self) -> list[str]:
        """Our command line with its address and namespace."""
        return [str(BIN / "wherry"), "-n", self.wherryd.namespace, "-a", self.wherryd.socket]

    @property
    def ctr(self) -> list[str]:
        """Debian's ctr for containerd."""
        return ["ctr", "-a", self.containerd.socket, "-n", self.containerd.namespace]

    def import_image(self) -> None:
        """Make IMAGE out of busybox and give it to both."""
        archive = _busybox_archive(self.place)
        for command in (
            [*self.wherry, "image", "import", "--rootfs", archive, IMAGE],
            [*self.wherry, "image", "export", "--output", f"{self.place}/image.tar", IMAGE],
            [*self.ctr, "images", "import", f"{self.place}/image.tar"],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


@contextmanager
def running_daemons(*flags: str) -> Iterator[Daemons]:
    """Run both daemons in a temporary directory, wherryd with flags; what the block leaves running ends with them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `timeout` cleans up as Ctrl-C does
    namespace = f"bench{os.getpid()}"
    with ExitStack() as undo:
        place = undo.enter_context(tempfile.TemporaryDirectory(prefix="wb", ignore_cleanup_errors=True))
        Path(place, "c.toml").write_text(_CONTAINERD_CONFIG.format(place=place))
        theirs = undo.enter_context(
            _daemon(["containerd", "-c", f"{place}/c.toml"], f"{place}/c.sock", namespace + "c")
        )
        ours = undo.enter_context(
            _daemon(
                [str(BIN / "wherryd"), "--root", f"{place}/r", "--state", f"{place}/s", *flags],
                f"{place}/s/wherry.sock",
                namespace + "w",
            )
        )
        yield Daemons(place, ours, theirs)


@contextmanager
def _daemon(command: list[str], socket: str, namespace: str) -> Iterator[Daemon]:
    """Run a daemon until the block ends."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.1)
        try:
            yield Daemon(process.pid, socket, namespace)
        finally:
            asyncio.run(_empty(socket, namespace))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        # What runtimes leave of every namespace, empty by now.
        for path in (
            _RUNC / namespace,
            _BUILTIN_STATE / namespace,
            *_CGROUPS.glob(f"*/{namespace}"),
            _CGROUPS / namespace,
        ):
            if path.is_dir():
                path.rmdir()


async def _empty(socket: str, namespace: str) -> None:
    """End and remove the containers that an interrupted benchmark left."""
    client = Client(GrpcChannel(socket), namespace)
    tasks = Tasks(client)
    listed = await client.containers.list(containers_pb2.ListContainersRequest(), metadata=client.metadata)
    for container in listed.containers:
        try:
            await tasks.end(container.id)
            await remove_container(client, container.id, container.snapshotter)
        except Error as error:
            print(f"{container.id} stays: {error}", file=sys.stderr)
    await client.channel.close()


def _busybox_archive(place: str) -> str:
    """Make a root file system's tar out of busybox."""
    rootfs = Path(place, "rootfs/bin")
    rootfs.mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", rootfs / "busybox"], check=True)
    for applet in ("sh", "true", "sleep", "dd"):
        (rootfs / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", rootfs.parent, "-cf", f"{place}/rootfs.tar", "."], check=True)
    return f"{place}/rootfs.tar"


@asynccontextmanager
async def clients(daemons: Daemons) -> AsyncIterator[dict[str, Client]]:
    """Connect to both: over ttrpc to wherryd, as its own client does, and over gRPC."""
    ours, theirs = daemons.wherryd, daemons.containerd
    async with AsyncExitStack() as undo:
        found = {
            "containerd, gRPC": Client(GrpcChannel(theirs.socket), theirs.namespace),
            "wherryd, gRPC": Client(GrpcChannel(ours.socket), ours.namespace),
            "wherryd, ttrpc": Client(await TtrpcChannel.connect(ours.socket + ".ttrpc"), ours.namespace),
        }
        for client in found.values():
            undo.push_async_callback(client.channel.close)
        yield found


@asynccontextmanager
async def container(
    client: Client, id: str, arguments: list[str], *, stdout: str = "", runtime: str = "", runc_binary: str = ""
) -> AsyncIterator[Task]:
    """Run a container while the block lasts."""
    options = RunOptions(arguments)
    options.id = id
    options.runc_binary = runc_binary
    if runtime:
        options.runtime = runtime
    async with AsyncExitStack() as undo:
        prepared = await create_container(client, IMAGE, options, Timing())
        undo.push_async_callback(remove_container, client, prepared.id, prepared.snapshotter)
        task = await Task.create(client, prepared, "", stdout, stdout, False)
        undo.push_async_callback(task.end)
        await task.start()
        yield task


def parent(pid: int) -> int:
    """Return a process's parent: of a container's init that is its shim."""
    return int(_stat(pid)[1])


def cpu_seconds(pid: int, *, children: bool = False) -> float:
    """Return the CPU time that a process has taken, as user and in the kernel, with `children` that it waited for."""
    return sum(map(int, _stat(pid)[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5)'s stat behind the name: the first is the third, the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def pss(pid: int) -> int:
    """Return a process's proportional set size in KiB."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def page_tables(pid: int) -> int:
    """Return the size of a process's page tables in KiB."""
    return _kib(Path(f"/proc/{pid}/status"), "VmPTE:")


def _kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(f"{name} in {path}")


def zygote(pid: int) -> set[int]:
    """Return a daemon's children: its zygote."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if child.isdigit()}


def spares(pid: int) -> set[int]:
    """Return the shims that wait for their containers: no children of the daemon, with its zygote's title and place."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes()
            mapped = _stat(int(entry.name))[45:47]
        except (OSError, IndexError):
            continue
        if title.startswith(b"wherry-zygote") and any(mapped == _stat(child)[45:47] for child in zygote(pid)):
            found.add(int(entry.name))
    return found - zygote(pid)


def figure(what: str, ours: float, theirs: float, unit: str, target: str) -> str:
    """Return a line of a Markdown table: ours, theirs, the ratio, and what is to be reached."""
    ratio = f"{ours / theirs:.2f}" if theirs else "–"
    return f"| {what} | {ours:.1f} {unit} | {theirs:.1f} {unit} | {ratio} | {target} |"


HEADING = "| figure | wherry | containerd | ratio | to reach |\n|---|---|---|---|---|"

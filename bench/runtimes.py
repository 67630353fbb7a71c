"""What the benchmarks of the OCI runtime share: one bundle, and every runtime ready to run it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.daemons import BIN, ENVIRONMENT, cpu_seconds
from tests.probe.build import build
from wherry.linux.mount import MNT_DETACH, MS_REC, MS_SLAVE, set_propagation, umount
from wherry.linux.namespaces import CLONE_NEWNS, setns, unshare
from wherry.oci.spec import default_spec, set_image_config
from wherry.zygote.client import Zygote

_PROJECT = Path(__file__).resolve().parent.parent
_CGROUPS = Path("/sys/fs/cgroup")
_TARGET = "bench.warm_runtime:main"

#: Where v2's hierarchy is on a hybrid system.
_UNIFIED = _CGROUPS / "unified"

ID = "limit"  # the C program's session keyring has its name


class Taken(NamedTuple):
    """What one container took, in milliseconds: until it was gone, and of CPU time, its process's included."""

    time: float
    cpu: float


class Laboratory:
    """A directory with the bundle of `true`, that of the probe, and everybody's state."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.name = f"bench{os.getpid()}"
        self.cgroup = f"/{self.name}/{ID}"
        self.bundle = place / "true"
        self.probe_bundle = place / "probe"
        self.rootfs = place / "rootfs"
        self.limit = place / "limit"
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def build(self) -> None:
        """Make the bundles and compile the C program and the probe."""
        (self.rootfs / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", self.rootfs / "bin/busybox")
        (self.rootfs / "bin/true").symlink_to("busybox")
        build(self.rootfs / "bin")
        subprocess.run(
            ["cc", "-O2", "-Wall", "-static", "-o", self.limit, Path(__file__).with_name("limit.c")], check=True
        )
        for bundle, program in ((self.bundle, "true"), (self.probe_bundle, "probe")):
            bundle.mkdir()
            spec = default_spec(self.name, ID)
            set_image_config(spec, {}, [program], None)
            spec["root"]["path"] = str(self.rootfs)
            spec["process"]["terminal"] = False
            (bundle / "config.json").write_text(json.dumps(spec))

    def runtime(self, *command: str) -> list[str]:
        """Return the command with which another runtime runs the bundle from beginning to end."""
        return [*self.program(*command), "run", "--bundle", str(self.bundle), ID]

    def program(self, *command: str) -> list[str]:
        """Return the beginning of any command of another runtime, with its state in this directory."""
        return [*command, "--root", str(self.place / os.path.basename(command[0]))]

    @property
    def wherry_runc(self) -> list[str]:
        """Our own command; empty while it is not installed."""
        command = BIN / "wherry-runc"
        return self.runtime(str(command)) if command.exists() else []

    @property
    def limit_command(self) -> list[str]:
        return [str(self.limit), "--cgroup", self.cgroup, str(self.rootfs), "true"]

    def spawn(self, command: list[str]) -> Taken:
        """Run a command that makes a container, with /dev/null as its streams."""
        path = shutil.which(command[0]) or command[0]
        streams = [(os.POSIX_SPAWN_DUP2, self.null, number) for number in (0, 1, 2)]
        began = time.perf_counter()
        pid = os.posix_spawn(path, command, ENVIRONMENT, file_actions=streams)
        _pid, ended, usage = os.wait4(pid, 0)
        taken = (time.perf_counter() - began) * 1000
        status = os.waitstatus_to_exitcode(ended)
        if status:
            said = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT).stderr
            raise SystemExit(f"{' '.join(command)}: exit status {status}: {said}")
        return Taken(taken, (usage.ru_utime + usage.ru_stime) * 1000)


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """Build everything below /run, where runtimes keep their state; nothing is left of it, nor of the cgroups."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="wb", dir="/run") as place:
        made = Laboratory(Path(place))
        try:
            made.build()
            yield made
        finally:
            for above in (*_CGROUPS.glob(f"*/{made.name}"), _CGROUPS / made.name):
                for path in (above / ID, above):
                    if path.is_dir():
                        path.rmdir()


@contextmanager
def without_unified(needed: bool = True) -> Iterator[None]:
    """Be in a mount namespace without v2's hierarchy, if the system is a hybrid one.

    crun 1.8.1 refuses to make any container where that has a controller of its own: "cgroups in hybrid mode not
    supported". Without it crun uses v1's, as runc and wherry-runc do.
    """
    if not needed or not os.path.ismount(_UNIFIED):
        yield
        return
    with ExitStack() as undo:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, own)
        cwd = os.getcwd()
        undo.callback(os.chdir, cwd)
        undo.callback(setns, own, CLONE_NEWNS)
        unshare(CLONE_NEWNS)
        set_propagation("/", MS_SLAVE | MS_REC)
        umount(str(_UNIFIED), MNT_DETACH)
        yield


class Served:
    """A process that runs a container for each byte, and answers with its nanoseconds."""

    def __init__(self, pid: int, orders: int, answers: int) -> None:
        self._pid = pid
        self._orders = orders
        self._answers = answers

    def __call__(self) -> Taken:
        """Make a container. Its CPU time is that of a clock that ticks a hundred times a second."""
        before = cpu_seconds(self._pid, children=True)
        os.write(self._orders, b"1")
        answer = os.read(self._answers, 64)
        if not answer:
            raise SystemExit("the process that makes containers has ended")
        return Taken(int(answer) / 1e6, (cpu_seconds(self._pid, children=True) - before) * 1000)

    def close(self) -> None:
        os.close(self._orders)
        os.close(self._answers)


@contextmanager
def served_limit(lab: Laboratory, *, cgroup: bool) -> Iterator[Served]:
    """Run the C program as a process that makes one container after another."""
    orders, ours = os.pipe()
    theirs, answers = os.pipe()
    where = ["--cgroup", lab.cgroup] if cgroup else []
    process = subprocess.Popen(
        [lab.limit, *where, "--serve", lab.rootfs, "true"], stdin=orders, stdout=answers, close_fds=True
    )
    os.close(orders)
    os.close(answers)
    served = Served(process.pid, ours, theirs)
    try:
        yield served
    finally:
        served.close()
        process.wait()


class Warm:
    """Ours, in processes that a zygote forks."""

    def __init__(self, zygote: Zygote, lab: Laboratory) -> None:
        self._zygote = zygote
        self._lab = lab

    async def process(self, bundle: Path, stdout: int = -1) -> Served:
        """Have a process forked that waits for orders; it has made no container yet."""
        orders, ours = os.pipe()
        theirs, answers = os.pipe()
        arguments = {"root": str(self._lab.place / "wherry"), "id": ID, "bundle": str(bundle)}
        try:
            child = await self._zygote.fork(
                _TARGET, arguments, [orders, answers, self._lab.null if stdout < 0 else stdout], title="wherry-bench"
            )
        finally:
            os.close(orders)
            os.close(answers)
        os.close(child.pidfd)
        return Served(child.pid, ours, theirs)

    async def first(self) -> Taken:
        """Make the first container of a process, as each shim does once."""
        process = await self.process(self._lab.bundle)
        try:
            return process()
        finally:
            process.close()
            # The zygote makes the next one ready meanwhile; what is measured after this must not feel it.
            await asyncio.sleep(0.1)

    async def probe(self) -> bytes:
        """Return what the probe reports in a container of ours."""
        with tempfile.TemporaryFile() as output:
            process = await self.process(self._lab.probe_bundle, output.fileno())
            try:
                process()
            finally:
                process.close()
            output.seek(0)
            return output.read()


@asynccontextmanager
async def warm(lab: Laboratory) -> AsyncIterator[Warm]:
    """Start a zygote of a shim's memory for the built-in runtime."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_PROJECT), str(_PROJECT / "src")])
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    zygote = await Zygote.start([_TARGET])
    try:
        yield Warm(zygote, lab)
    finally:
        await zygote.close()


def limit_probe(lab: Laboratory) -> bytes:
    """Return what the probe reports in a container of the C program's."""
    command = [str(lab.limit), "--cgroup", lab.cgroup, str(lab.rootfs), "probe"]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


def differences(ours: bytes, theirs: bytes) -> list[str]:
    """Return where two reports of the probe differ that were to be the same, but for names that are given by chance."""
    return _differences(_normal(ours), _normal(theirs), "")


def _normal(report: bytes) -> dict[str, object]:
    document: dict[str, object] = json.loads(report)
    files = document["files"]
    assert isinstance(files, dict)
    # Without the numbers of mounts and devices, and the room that descriptors have been given.
    lines = files["mountinfo"]["text"].splitlines()
    files["mountinfo"] = [" ".join(line.split(" ")[3:]) for line in lines]
    status = document["status"]
    assert isinstance(status, dict)
    del status["FDSize"], document["descriptors"], document["namespaces"]
    return document


def _differences(ours: object, theirs: object, where: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for name in dict.fromkeys([*ours, *theirs])
            for line in _differences(ours.get(name), theirs.get(name), f"{where}/{name}")
        ]
    return [] if ours == theirs else [f"{where}: {ours!r}, {theirs!r}"]

#!/usr/bin/env python3
"""How long a container takes: wherry beside Debian's containerd, both with Debian's runc, alternating in one run.

(a) the command line: `wherry run --rm IMAGE true` and `ctr run --rm IMAGE ID true`;
(b) a warm client: snapshot, container, task create, start, exit, delete, removal, over gRPC to both, and over ttrpc to
    wherryd;
(c) a shim started by exec for containerd: `ctr run --rm` with containerd's own and with ours;
(d) memory at rest: Pss of wherryd and its zygote, then with the shim that is kept ready, and of containerd.

Medians in milliseconds and their ratios, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wherry.client.client import Client
from wherry.client.run import RunOptions, Task, Timing, create_container, remove_container
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel

BIN = Path(sys.executable).parent
IMAGE = "docker.io/library/bench:latest"

CONTAINERD_CONFIG = """
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


@contextmanager
def daemon(command: list[str], socket: str) -> Iterator[int]:
    """Run a daemon until the block ends; its pid."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit(f"{command[0]} did not start")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def busybox_archive(place: str) -> str:
    """Make a root file system's tar out of busybox."""
    rootfs = Path(place, "rootfs/bin")
    rootfs.mkdir(parents=True)
    subprocess.run(["cp", "/bin/busybox", rootfs / "busybox"], check=True)
    for applet in ("sh", "true", "sleep"):
        (rootfs / applet).symlink_to("busybox")
    subprocess.run(["tar", "-C", rootfs.parent, "-cf", f"{place}/rootfs.tar", "."], check=True)
    return f"{place}/rootfs.tar"


def timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return (time.perf_counter() - began) * 1000


def alternate(count: int, cases: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """Return each case's median over rounds in which every case has its turn."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(count + 2):
        for name, case in cases.items():
            milliseconds = case(number)
            if number >= 2:  # the first rounds warm caches
                found[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in found.items()}


async def lifecycle(client: Client, id: str) -> float:
    options = RunOptions(["true"])
    options.id = id
    began = time.perf_counter()
    prepared = await create_container(client, IMAGE, options, Timing())
    task = await Task.create(client, prepared, "", "", "", False)
    await task.start()
    await task.wait()
    await task.delete()
    await remove_container(client, prepared.id, prepared.snapshotter)
    return (time.perf_counter() - began) * 1000


async def warm(count: int, ours: str, theirs: str, namespace: str) -> dict[str, float]:
    clients = {
        "containerd, gRPC": Client(GrpcChannel(theirs), namespace + "c"),
        "wherryd, gRPC": Client(GrpcChannel(ours), namespace + "w"),
        "wherryd, ttrpc": Client(await TtrpcChannel.connect(ours + ".ttrpc"), namespace + "w"),
    }
    found: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(count + 2):
        for name, client in clients.items():
            milliseconds = await lifecycle(client, f"w{number}")
            if number >= 2:
                found[name].append(milliseconds)
    for client in clients.values():
        await client.channel.close()
    return {name: statistics.median(values) for name, values in found.items()}


def pss(pid: int) -> int:
    """Return a process's proportional set size, with its children's, in KiB."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            total = int(line.split()[1])
    return total


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
            mapped = (entry / "stat").read_text().rpartition(")")[2].split()[45:47]
        except (OSError, IndexError):
            continue
        if title.startswith(b"wherry-zygote") and any(
            mapped == Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[45:47] for child in zygote(pid)
        ):
            found.add(int(entry.name))
    return found - zygote(pid)


def row(what: str, ours: float, theirs: float, unit: str = "ms") -> str:
    return f"| {what} | {ours:.1f} {unit} | {theirs:.1f} {unit} | {ours / theirs:.2f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="rounds of each loop")
    count = parser.parse_args().count
    namespace = f"bench{os.getpid()}"
    with ExitStack() as undo:
        place = undo.enter_context(tempfile.TemporaryDirectory(prefix="wb", ignore_cleanup_errors=True))
        Path(place, "c.toml").write_text(CONTAINERD_CONFIG.format(place=place))
        ours, theirs = f"{place}/s/wherry.sock", f"{place}/c.sock"
        containerd = undo.enter_context(daemon(["containerd", "-c", f"{place}/c.toml"], theirs))
        wherryd = undo.enter_context(
            daemon([str(BIN / "wherryd"), "--root", f"{place}/r", "--state", f"{place}/s"], ours)
        )
        time.sleep(1)
        at_rest = sum(map(pss, {wherryd, *zygote(wherryd)})) / 1024, pss(containerd) / 1024
        waiting = sum(map(pss, spares(wherryd))) / 1024
        archive = busybox_archive(place)
        wherry = [str(BIN / "wherry"), "-n", namespace + "w", "-a", ours]
        for command in (
            [*wherry, "image", "import", "--rootfs", archive, IMAGE],
            [*wherry, "image", "export", "--output", f"{place}/image.tar", IMAGE],
            ["ctr", "-a", theirs, "-n", namespace + "c", "images", "import", f"{place}/image.tar"],
        ):
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        ctr = ["ctr", "-a", theirs, "-n", namespace + "c", "run", "--rm"]
        shim = str(BIN / "containerd-shim-wherry-v2")
        lines = alternate(
            count,
            {
                "wherry": lambda number: timed([*wherry, "run", "--rm", IMAGE, "true"]),
                "ctr": lambda number: timed([*ctr, IMAGE, f"a{number}", "true"]),
                "our shim": lambda number: timed([*ctr, "--runtime", shim, IMAGE, f"b{number}", "true"]),
            },
        )
        loops = asyncio.run(warm(count, ours, theirs, namespace))
    print("| figure | wherry | containerd | ratio |\n|---|---|---|---|")
    print(row("(a) `run --rm IMAGE true`, command line", lines["wherry"], lines["ctr"]))
    print(row("(b) warm client, whole lifecycle, gRPC", loops["wherryd, gRPC"], loops["containerd, gRPC"]))
    print(row("(b) the same, ours over ttrpc", loops["wherryd, ttrpc"], loops["containerd, gRPC"]))
    print(row("(c) `ctr run --rm` on containerd, our shim and its own", lines["our shim"], lines["ctr"]))
    print(row("(d) memory at rest (Pss), wherryd and its zygote", *at_rest, unit="MiB"))
    print(row("(d) with the shim that waits for the next container", at_rest[0] + waiting, at_rest[1], unit="MiB"))


if __name__ == "__main__":
    main()

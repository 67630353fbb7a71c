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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import (
    ENVIRONMENT,
    IMAGE,
    OUR_SHIM,
    Daemons,
    clients,
    pss,
    running_daemons,
    spares,
    zygote,
)
from wherry.client.client import Client
from wherry.client.run import RunOptions, Task, Timing, create_container, remove_container


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


async def lifecycle(client: Client, id: str, runc_binary: str = "") -> float:
    """Run `true` from snapshot to removal, by an OCI runtime that is named, and return the milliseconds."""
    options = RunOptions(["true"])
    options.id = id
    options.runc_binary = runc_binary
    began = time.perf_counter()
    prepared = await create_container(client, IMAGE, options, Timing())
    task = await Task.create(client, prepared, "", "", "", False)
    await task.start()
    await task.wait()
    await task.delete()
    await remove_container(client, prepared.id, prepared.snapshotter)
    return (time.perf_counter() - began) * 1000


async def warm(daemons: Daemons, count: int) -> dict[str, float]:
    async with clients(daemons) as found:
        times: dict[str, list[float]] = {name: [] for name in found}
        for number in range(count + 2):
            for name, client in found.items():
                milliseconds = await lifecycle(client, f"w{number}")
                if number >= 2:
                    times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items()}


def row(what: str, ours: float, theirs: float, unit: str = "ms") -> str:
    return f"| {what} | {ours:.1f} {unit} | {theirs:.1f} {unit} | {ours / theirs:.2f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="rounds of each loop")
    count = parser.parse_args().count
    with running_daemons() as daemons:
        ours, theirs = daemons.wherryd.pid, daemons.containerd.pid
        time.sleep(1)
        at_rest = sum(map(pss, {ours, *zygote(ours)})) / 1024, pss(theirs) / 1024
        waiting = sum(map(pss, spares(ours))) / 1024
        daemons.import_image()
        run = [*daemons.ctr, "run", "--rm"]
        lines = alternate(
            count,
            {
                "wherry": lambda number: timed([*daemons.wherry, "run", "--rm", IMAGE, "true"]),
                "ctr": lambda number: timed([*run, IMAGE, f"a{number}", "true"]),
                "our shim": lambda number: timed([*run, "--runtime", OUR_SHIM, IMAGE, f"b{number}", "true"]),
            },
        )
        loops = asyncio.run(warm(daemons, count))
    print("| figure | wherry | containerd | ratio |\n|---|---|---|---|")
    print(row("(a) `run --rm IMAGE true`, command line", lines["wherry"], lines["ctr"]))
    print(row("(b) warm client, whole lifecycle, gRPC", loops["wherryd, gRPC"], loops["containerd, gRPC"]))
    print(row("(b) the same, ours over ttrpc", loops["wherryd, ttrpc"], loops["containerd, gRPC"]))
    print(row("(c) `ctr run --rm` on containerd, our shim and its own", lines["our shim"], lines["ctr"]))
    print(row("(d) memory at rest (Pss), wherryd and its zygote", *at_rest, unit="MiB"))
    print(row("(d) with the shim that waits for the next container", at_rest[0] + waiting, at_rest[1], unit="MiB"))


if __name__ == "__main__":
    main()

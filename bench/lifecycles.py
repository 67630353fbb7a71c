#!/usr/bin/env python3
"""Whole lifecycles with the built-in runtime, beside Debian's containerd with runc, alternating in one run.

a  a warm client: snapshot, container, task create, start, exit, delete, removal, with all events, by wherryd with
   wherry-runc and with runc;
b  the command line: `wherry run --rm IMAGE true` and `ctr run --rm IMAGE ID true`;
c  lifecycles a second from one warm client that has some going at a time;
d  exec of `true` by a warm client;
e  memory of an idle container, as bench/shim_memory.py has it.

Medians, and for c the median of the runs, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import exec_latency
from bench.daemons import BUILTIN, HEADING, IMAGE, RUNC, Daemons, clients, figure, running_daemons
from bench.run_latency import alternate, lifecycle, timed
from bench.shim_memory import per_container
from wherry.client.client import Client

_OURS, _THEIRS = "wherryd, ttrpc", "containerd, gRPC"

#: Who runs containers: the client's name, and the OCI runtime that it names.
_SIDES = {"ours": (_OURS, BUILTIN), "ours with runc": (_OURS, RUNC), "theirs": (_THEIRS, "")}

#: The first rounds warm caches.
_WARMING = 3


async def one_by_one(daemons: Daemons, count: int) -> list[str]:
    """Return (a)."""
    times: dict[str, list[float]] = {side: [] for side in _SIDES}
    async with clients(daemons) as found:
        for number in range(count + _WARMING):
            for side, (name, runc_binary) in _SIDES.items():
                milliseconds = await lifecycle(found[name], f"a{number}-{side[-1]}", runc_binary)
                if number >= _WARMING:
                    times[side].append(milliseconds)
    median = {side: statistics.median(values) for side, values in times.items()}
    return [
        figure("(a) warm client, whole lifecycle", median["ours"], median["theirs"], "ms", "<= 0.2"),
        figure("(a) the same, ours with runc", median["ours with runc"], median["theirs"], "ms", ""),
    ]


def command_line(daemons: Daemons, count: int) -> list[str]:
    """Return (b)."""
    ours, theirs = [*daemons.wherry, "run", "--rm"], [*daemons.ctr, "run", "--rm"]
    median = alternate(
        count,
        {
            "ours": lambda number: timed([*ours, "--runc-binary", BUILTIN, IMAGE, "true"]),
            "ours with runc": lambda number: timed([*ours, "--runc-binary", RUNC, IMAGE, "true"]),
            "theirs": lambda number: timed([*theirs, IMAGE, f"b{number}", "true"]),
        },
    )
    return [
        figure("(b) `run --rm IMAGE true`, command line", median["ours"], median["theirs"], "ms", "<= 0.5"),
        figure("(b) the same, ours with runc", median["ours with runc"], median["theirs"], "ms", ""),
    ]


async def rate(client: Client, name: str, count: int, at_a_time: int, runc_binary: str) -> float:
    """Run so many lifecycles, some of them at a time, and return how many end in a second."""
    numbers = iter(range(count))

    async def run_some() -> None:
        for number in numbers:
            await lifecycle(client, f"{name}-{number}", runc_binary)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(run_some())
    return count / (time.perf_counter() - began)


async def side_by_side(daemons: Daemons, runs: int, count: int, at_a_time: int) -> list[str]:
    """Return (c)."""
    rates: dict[str, list[float]] = {side: [] for side in _SIDES}
    async with clients(daemons) as found:
        for number in range(runs + 1):
            for side, (name, runc_binary) in _SIDES.items():
                some = count if number else at_a_time  # the first run warms caches
                per_second = await rate(found[name], f"c{number}-{side[-1]}", some, at_a_time, runc_binary)
                if number:
                    rates[side].append(per_second)
    median = {side: statistics.median(values) for side, values in rates.items()}
    return [
        figure(f"(c) warm client, {at_a_time} at a time", median["ours"], median["theirs"], "/s", ">= 3"),
        figure("(c) the same, ours with runc", median["ours with runc"], median["theirs"], "/s", ""),
    ]


async def memory(daemons: Daemons, count: int) -> list[str]:
    """Return (e)."""
    async with clients(daemons) as found:
        ours, theirs = found[_OURS], found[_THEIRS]
        # What a daemon holds from its first container on is no container's.
        await per_container(ours, daemons.wherryd, 1, runc_binary=BUILTIN)
        await per_container(theirs, daemons.containerd, 1)
        mine = await per_container(ours, daemons.wherryd, count, runc_binary=BUILTIN)
        other = await per_container(theirs, daemons.containerd, count)
    return [figure(f"(e) memory of an idle container of {count}", mine, other, "MiB", "<= 0.6")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices="abcde", default=list("abcde"), help="what is measured")
    parser.add_argument("--count", type=int, default=30, help="rounds of a, b and d")
    parser.add_argument("--runs", type=int, default=3, help="runs of c")
    parser.add_argument("--lifecycles", type=int, default=160, help="of a run of c")
    parser.add_argument("--at-a-time", type=int, default=16, help="lifecycles of c")
    parser.add_argument("--containers", type=int, default=100, help="of e")
    options = parser.parse_args()
    lines = []
    with running_daemons() as daemons:
        daemons.import_image()
        if "a" in options.parts:
            lines += asyncio.run(one_by_one(daemons, options.count))
        if "b" in options.parts:
            lines += command_line(daemons, options.count)
        if "c" in options.parts:
            lines += asyncio.run(side_by_side(daemons, options.runs, options.lifecycles, options.at_a_time))
        if "d" in options.parts:
            lines += [
                line.replace("| ", "| (d) ", 1)
                for line in asyncio.run(exec_latency.measure(daemons, options.count, BUILTIN))
            ]
        if "e" in options.parts:
            lines += asyncio.run(memory(daemons, options.containers))
    print(HEADING, *lines, sep="\n")
    print(f"\nLoad averages at the end: {', '.join(f'{load:.1f}' for load in os.getloadavg())}.")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How long a container takes by the runtime alone: ours, crun, runc, and the limit, taking turns in one run.

The bundle is that of `true` with containerd's default specification. Each is create, start, wait and delete:

- ours in a process that the zygote forked, as in a shim: its first container, and one of many;
- `crun run`, `runc run` and `wherry-runc run`, each a program of its own;
- bench/limit.c, which asks the kernel for the same and nothing else: as a process that makes one after another, and
  as a program of its own. The probe of the tests must see the same in its container as in ours.

Medians in milliseconds, as a table in Markdown, and the CPU time of each, which says more where others are at work.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import figure
from bench.runtimes import Laboratory, Taken, differences, laboratory, limit_probe, served_limit, warm, without_unified

_HEADING = "| figure | wherry | the other | ratio | to reach |\n|---|---|---|---|---|"

_FIRST, _MANY = "first", "many"
_LIMIT, _LIMIT_STAYS, _LIMIT_PROGRAM = "limit", "limit without cgroups", "limit, program"
_CRUN, _RUNC, _COLD = "crun", "runc", "wherry-runc"

#: The first rounds warm caches.
_WARMING = 3


async def measure(lab: Laboratory, count: int) -> dict[str, Taken]:
    """Return the median time and the mean of the CPU time of each case, over rounds in which every one has its turn."""
    async with AsyncExitStack() as undo:
        ours = await undo.enter_async_context(warm(lab))
        if different := differences(await ours.probe(), limit_probe(lab)):
            raise SystemExit("the C program's container is not ours:\n" + "\n".join(different))
        many = await ours.process(lab.bundle)
        undo.callback(many.close)
        cases: dict[str, Callable[[], Taken | Awaitable[Taken]]] = {
            _FIRST: ours.first,
            _MANY: many,
            _LIMIT: undo.enter_context(served_limit(lab, cgroup=True)),
            _LIMIT_STAYS: undo.enter_context(served_limit(lab, cgroup=False)),
            _LIMIT_PROGRAM: lambda: lab.spawn(lab.limit_command),
        }
        for name, command in ((_CRUN, lab.runtime("crun")), (_RUNC, lab.runtime("runc")), (_COLD, lab.wherry_runc)):
            if command and shutil.which(command[0]):
                cases[name] = _spawning(lab, command, hybrid=name != _CRUN)
        found: dict[str, list[Taken]] = {name: [] for name in cases}
        for number in range(count + _WARMING):
            for name, case in cases.items():
                made = case()
                taken = made if isinstance(made, Taken) else await made
                if number >= _WARMING:
                    found[name].append(taken)
    return {
        name: Taken(statistics.median(each.time for each in taken), statistics.mean(each.cpu for each in taken))
        for name, taken in found.items()
    }


def _spawning(lab: Laboratory, command: list[str], *, hybrid: bool) -> Callable[[], Taken]:
    def spawn() -> Taken:
        with without_unified(not hybrid):
            return lab.spawn(command)

    return spawn


def table(times: dict[str, float]) -> list[str]:
    """Return the table's lines; those of a program that is not installed say so."""
    lines = []
    if _CRUN in times:
        lines += [
            figure(
                "first container of a forked process, against `crun run`", times[_FIRST], times[_CRUN], "ms", "<= 0.8"
            ),
            figure("one of many in one process, against `crun run`", times[_MANY], times[_CRUN], "ms", "<= 0.8"),
        ]
    else:
        lines.append("| against `crun run` | – | crun is not installed | – | <= 0.8 |")
    lines += [
        figure("first container of a forked process, against the limit", times[_FIRST], times[_LIMIT], "ms", "<= 2.2"),
        figure("one of many in one process, against the limit", times[_MANY], times[_LIMIT], "ms", "<= 2.2"),
    ]
    if _COLD not in times:
        lines.append("| `wherry-runc run` against `runc run` | wherry-runc is not installed | – | – | <= 1.5 |")
    elif _RUNC not in times:
        lines.append("| `wherry-runc run` against `runc run` | – | runc is not installed | – | <= 1.5 |")
    else:
        lines.append(figure("`wherry-runc run` against `runc run`", times[_COLD], times[_RUNC], "ms", "<= 1.5"))
    return lines


def notes(found: dict[str, Taken]) -> list[str]:
    """Return what the limit itself is, and the CPU times, in words."""
    times = {name: taken.time for name, taken in found.items()}
    said = [
        f"The limit: {times[_LIMIT]:.1f} ms, {times[_LIMIT_STAYS]:.1f} without cgroups; as a program of its own"
        f" {times[_LIMIT_PROGRAM]:.1f}"
    ]
    if _CRUN in times:
        said.append(f", which is {times[_LIMIT_PROGRAM] / times[_CRUN]:.2f} of crun's {times[_CRUN]:.1f}")
    cpu = ", ".join(f"{name} {taken.cpu:.1f}" for name, taken in found.items())
    return ["".join(said) + ".", f"CPU time of a container in ms: {cpu}."]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="rounds")
    options = parser.parse_args()
    with laboratory() as lab:
        found = asyncio.run(measure(lab, options.count))
    print(_HEADING, *table({name: taken.time for name, taken in found.items()}), "", *notes(found), sep="\n")
    print(f"Load averages at the end: {', '.join(f'{load:.1f}' for load in os.getloadavg())}.")


if __name__ == "__main__":
    main()

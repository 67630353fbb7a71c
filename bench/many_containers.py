#!/usr/bin/env python3
"""How long the next container takes beside those that are there: on wherryd and on containerd, in one run.

With 1, 100 and 500 containers at rest: the time from create to removal of one more, and how it has grown since 1.
Medians in milliseconds, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import Daemons, clients, container, running_daemons
from bench.run_latency import lifecycle

_SIDES = {"wherry": "wherryd, ttrpc", "containerd": "containerd, gRPC"}


async def measure(daemons: Daemons, counts: Sequence[int], rounds: int) -> list[str]:
    """Return the table's lines."""
    lines = []
    first: dict[str, float] = {}
    async with clients(daemons) as found, AsyncExitStack() as undo:
        there = 0
        for count in counts:
            while there < count:
                for client in _SIDES.values():
                    arguments = ["sleep", "1000000"]
                    await undo.enter_async_context(container(found[client], f"n{there}", arguments))
                there += 1
            times: dict[str, list[float]] = {side: [] for side in _SIDES}
            for number in range(rounds + 1):
                for side, client in _SIDES.items():
                    milliseconds = await lifecycle(found[client], f"next{count}-{number}")
                    if number:  # the first round warms caches
                        times[side].append(milliseconds)
            median = {side: statistics.median(values) for side, values in times.items()}
            first = first or median
            grown = {side: median[side] / first[side] for side in _SIDES}
            lines.append(
                f"| {count} | {median['wherry']:.1f} ms | {median['containerd']:.1f} ms |"
                f" {grown['wherry']:.2f} | {grown['containerd']:.2f} |"
            )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="rounds for each number of containers")
    parser.add_argument("--containers", type=int, nargs="+", default=[1, 100, 500], help="numbers of containers")
    options = parser.parse_args()
    with running_daemons() as daemons:
        daemons.import_image()
        lines = asyncio.run(measure(daemons, options.containers, options.count))
    print("| containers | wherry | containerd | wherry, grown | containerd, grown |\n|---|---|---|---|---|")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()

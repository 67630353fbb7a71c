#!/usr/bin/env python3
"""What an idle container costs in memory: wherry's shims beside Debian's containerd's, in one run.

For N containers: (Pss and page tables of the daemon, its zygote and all shims, less those of daemon and zygote without
a container) / N; once more with N = 20 after the zygote was killed; and what a shim of ours holds by itself that
Debian's containerd started with exec.

Figures in MiB, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import (
    HEADING,
    OUR_SHIM,
    Daemon,
    Daemons,
    clients,
    container,
    figure,
    page_tables,
    parent,
    pss,
    running_daemons,
    spares,
    zygote,
)
from wherry.client.client import Client

_SLEEP = ["sleep", "1000000"]


def held(pids: Sequence[int]) -> float:
    """Return what processes hold together, their page tables included, in MiB."""
    return sum(pss(pid) + page_tables(pid) for pid in pids) / 1024


def daemon_pids(daemon: Daemon) -> list[int]:
    """Return a daemon, its zygote and the shim that waits for the next container."""
    return [daemon.pid, *zygote(daemon.pid), *spares(daemon.pid)]


async def per_container(client: Client, daemon: Daemon, count: int, *, kill_zygote: bool = False) -> float:
    """Return what each of some containers costs, in MiB."""
    before = held(daemon_pids(daemon))
    async with AsyncExitStack() as undo:
        tasks = [
            await undo.enter_async_context(container(client, f"m{count}-{number}", _SLEEP)) for number in range(count)
        ]
        if kill_zygote:
            for pid in zygote(daemon.pid):
                os.kill(pid, signal.SIGKILL)
            # The next container has another zygote made.
            tasks.append(await undo.enter_async_context(container(client, f"m{count}-last", _SLEEP)))
        time.sleep(1)
        shims = {parent(task.pid) for task in tasks}
        return (held([*daemon_pids(daemon), *shims]) - before) / len(tasks)


async def started_by_exec(client: Client, count: int) -> list[float]:
    """Return what each of our shims holds that another daemon started, in MiB."""
    async with AsyncExitStack() as undo:
        tasks = [
            await undo.enter_async_context(container(client, f"x{number}", _SLEEP, runtime=OUR_SHIM))
            for number in range(count)
        ]
        time.sleep(1)
        return [held([parent(task.pid)]) for task in tasks]


async def measure(daemons: Daemons, counts: Sequence[int], exec_count: int) -> list[str]:
    """Return the table's lines."""
    lines = []
    async with clients(daemons) as found:
        ours, theirs = found["wherryd, ttrpc"], found["containerd, gRPC"]
        for client, daemon in ((ours, daemons.wherryd), (theirs, daemons.containerd)):
            await per_container(client, daemon, 1)  # what a daemon holds from its first container on is no container's
        for count in counts:
            mine = await per_container(ours, daemons.wherryd, count)
            other = await per_container(theirs, daemons.containerd, count)
            lines.append(figure(f"an idle container of {count}", mine, other, "MiB", "< 1"))
        theirs_again = await per_container(theirs, daemons.containerd, 20)
        ours_again = await per_container(ours, daemons.wherryd, 20, kill_zygote=True)
        lines.append(figure("of 20, the zygote killed", ours_again, theirs_again, "MiB", "< 1"))
        execed = await started_by_exec(theirs, exec_count)
        lines.append(
            f"| started by exec, the median and the most of {exec_count} | {statistics.median(execed):.1f} MiB,"
            f" {max(execed):.1f} MiB | – | – | <= 16 MB |"
        )
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 20, 100], help="numbers of containers")
    parser.add_argument("--exec-count", type=int, default=100, help="shims of ours under containerd")
    options = parser.parse_args()
    with running_daemons() as daemons:
        daemons.import_image()
        lines = asyncio.run(measure(daemons, options.counts, options.exec_count))
    print(HEADING, *lines, sep="\n")


if __name__ == "__main__":
    main()

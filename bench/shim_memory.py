#!/usr/bin/env python3
"""What an idle container costs in memory: wherry's shims beside Debian's containerd's, in one run.

For N containers: (Pss and page tables of the daemon, its zygote and all shims, less those of daemon and zygote without
a container) / N; once more with N = 20 after the zygote was killed; and what a shim of ours holds by itself that
Debian's containerd started with exec. With --ksm also what is left where the kernel's KSM runs and wherryd's shims take
part (`ksm = true`): it is turned on for that, and off again.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import (
    BUILTIN,
    HEADING,
    OUR_SHIM,
    RUNC,
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

_KSM = Path("/sys/kernel/mm/ksm")


def held(pids: Sequence[int]) -> float:
    """Return what processes hold together, their page tables included, in MiB."""
    return sum(pss(pid) + page_tables(pid) for pid in pids) / 1024


def daemon_pids(daemon: Daemon) -> list[int]:
    """Return a daemon, its zygote and the shim that waits for the next container."""
    return [daemon.pid, *zygote(daemon.pid), *spares(daemon.pid)]


def a_second() -> None:
    """Let everything come to rest."""
    time.sleep(1)


async def per_container(
    client: Client,
    daemon: Daemon,
    count: int,
    *,
    runc_binary: str = "",
    kill_zygote: bool = False,
    settle: Callable[[], None] = a_second,
) -> float:
    """Return what each of some containers costs, in MiB."""
    settle()
    before = held(daemon_pids(daemon))
    async with AsyncExitStack() as undo:
        tasks = [
            await undo.enter_async_context(container(client, f"m{count}-{number}", _SLEEP, runc_binary=runc_binary))
            for number in range(count)
        ]
        if kill_zygote:
            for pid in zygote(daemon.pid):
                os.kill(pid, signal.SIGKILL)
            # The next container has another zygote made.
            last = container(client, f"m{count}-last", _SLEEP, runc_binary=runc_binary)
            tasks.append(await undo.enter_async_context(last))
        settle()
        shims = {parent(task.pid) for task in tasks}
        return (held([*daemon_pids(daemon), *shims]) - before) / len(tasks)


async def started_by_exec(client: Client, count: int, runc_binary: str) -> list[float]:
    """Return what each of our shims holds that another daemon started, in MiB."""
    async with AsyncExitStack() as undo:
        tasks = [
            await undo.enter_async_context(
                container(client, f"x{number}", _SLEEP, runtime=OUR_SHIM, runc_binary=runc_binary)
            )
            for number in range(count)
        ]
        time.sleep(1)
        return [held([parent(task.pid)]) for task in tasks]


async def measure(daemons: Daemons, counts: Sequence[int], exec_count: int, runc_binary: str) -> list[str]:
    """Return the table's lines; `runc_binary` is the OCI runtime of wherryd's containers."""
    lines = []
    async with clients(daemons) as found:
        ours, theirs = found["wherryd, ttrpc"], found["containerd, gRPC"]
        # What a daemon holds from its first container on is no container's.
        await per_container(ours, daemons.wherryd, 1, runc_binary=runc_binary)
        await per_container(theirs, daemons.containerd, 1)
        for count in counts:
            mine = await per_container(ours, daemons.wherryd, count, runc_binary=runc_binary)
            other = await per_container(theirs, daemons.containerd, count)
            lines.append(figure(f"an idle container of {count}", mine, other, "MiB", "< 1"))
        theirs_again = await per_container(theirs, daemons.containerd, 20)
        ours_again = await per_container(ours, daemons.wherryd, 20, runc_binary=runc_binary, kill_zygote=True)
        lines.append(figure("of 20, the zygote killed", ours_again, theirs_again, "MiB", "< 1"))
        execed = await started_by_exec(theirs, exec_count, runc_binary)
        lines.append(
            f"| started by exec, the median and the most of {exec_count} | {statistics.median(execed):.1f} MiB,"
            f" {max(execed):.1f} MiB | – | – | <= 16 MB |"
        )
    return lines


@contextmanager
def merging() -> Iterator[None]:
    """Have the kernel merge pages while the block lasts, fast; then as before."""
    kept = {name: (_KSM / name).read_text() for name in ("run", "pages_to_scan")}
    try:
        (_KSM / "pages_to_scan").write_text("5000")
        (_KSM / "run").write_text("1")
        yield
    finally:
        (_KSM / "run").write_text("2")  # nothing stays merged
        for name, value in kept.items():
            (_KSM / name).write_text(value)


def scanned() -> None:
    """Wait until the kernel has looked at every page three times: the first two only take down what a page holds."""
    begun = int((_KSM / "full_scans").read_text())
    while int((_KSM / "full_scans").read_text()) < begun + 4:
        time.sleep(0.1)


async def measure_merged(daemons: Daemons, counts: Sequence[int], runc_binary: str) -> list[str]:
    """Return the lines of the table for shims whose equal pages are kept once."""
    lines = []
    async with clients(daemons) as found:
        ours, theirs = found["wherryd, ttrpc"], found["containerd, gRPC"]
        await per_container(ours, daemons.wherryd, 1, runc_binary=runc_binary)
        await per_container(theirs, daemons.containerd, 1)
        for count in counts:
            mine = await per_container(ours, daemons.wherryd, count, runc_binary=runc_binary, settle=scanned)
            other = await per_container(theirs, daemons.containerd, count)
            lines.append(figure(f"an idle container of {count}, `ksm = true`", mine, other, "MiB", "< 1"))
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 20, 100], help="numbers of containers")
    parser.add_argument("--exec-count", type=int, default=100, help="shims of ours under containerd")
    parser.add_argument("--ksm", action="store_true", help="turn the kernel's KSM on, and measure with it as well")
    parser.add_argument("--builtin", action="store_true", help="wherryd with wherry's own OCI runtime")
    options = parser.parse_args()
    runc_binary = BUILTIN if options.builtin else RUNC
    with running_daemons() as daemons:
        daemons.import_image()
        lines = asyncio.run(measure(daemons, options.counts, options.exec_count, runc_binary))
    if options.ksm:
        with merging(), running_daemons("--ksm") as daemons:
            daemons.import_image()
            lines += asyncio.run(measure_merged(daemons, options.counts, runc_binary))
    print(HEADING, *lines, sep="\n")


if __name__ == "__main__":
    main()

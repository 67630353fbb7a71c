#!/usr/bin/env python3
"""How fast a container's output goes through its shim: wherry's beside Debian's containerd's, alternating in one run.

A container writes with dd to its stdout; this program reads the client's end of the FIFO, 1 MiB at a time, to nothing.

(a) blocks of 1 MiB: throughput from the first byte to the last, and the shim's CPU time;
(b) blocks of 64 bytes: the same;
(c) a reader that stops for a while: the shim's CPU time meanwhile, and whether the rest arrives.

Medians and their ratios, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import HEADING, Daemons, clients, container, cpu_seconds, figure, parent, running_daemons
from wherry.client.client import Client

_READ = 1 << 20

#: Seconds that the reader of (c) does not read.
_PAUSE = 2.0

#: What is compared: ours over the channel that our own client speaks.
_SIDES = {"wherry": "wherryd, ttrpc", "containerd": "containerd, gRPC"}


class Stream(NamedTuple):
    """One container's output: MB/s (of a million bytes), and the shim's CPU time in milliseconds."""

    speed: float
    shim_cpu: float


def read_all(fd: int, pause_after: int) -> tuple[int, float]:
    """Read to the end, and stop once for a while; how many bytes, and how many seconds from first to last."""
    buffer = bytearray(_READ)
    total = os.readv(fd, [buffer])
    began = last = time.perf_counter()
    while count := os.readv(fd, [buffer]):
        last = time.perf_counter()
        total += count
        if pause_after and total >= pause_after:
            time.sleep(_PAUSE)
            pause_after = 0
    return total, last - began


async def stream(client: Client, id: str, fifo: str, block: int, count: int, pause_after: int = 0) -> Stream:
    """Run dd in a container and measure its output on the way."""
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.set_blocking(held, True)
        # A moment for the client to be ready, and one for the shim's CPU time to be read before it ends.
        script = f"sleep 0.3; dd if=/dev/zero bs={block} count={count} 2>/dev/null; exec >/dev/null; sleep 0.3"
        async with container(client, id, ["sh", "-c", script], stdout=fifo) as task:
            shim = parent(task.pid)
            before = cpu_seconds(shim)
            total, seconds = await asyncio.to_thread(read_all, held, pause_after)
            used = cpu_seconds(shim) - before
            await task.wait()
        if total != block * count:
            raise SystemExit(f"{id}: {total} bytes of {block * count} came through")
        return Stream(total / seconds / 1e6, used * 1000)
    finally:
        os.close(held)
        os.unlink(fifo)


async def measure(daemons: Daemons, rounds: int, megabytes: int) -> list[str]:
    """Return the table's lines."""
    cases = {
        "(a) blocks of 1 MiB": (1 << 20, megabytes, 0),
        "(b) blocks of 64 bytes": (64, megabytes * 1024, 0),
        f"(c) a reader that stops for {_PAUSE:.0f} s": (1 << 20, 256, 64 << 20),
    }
    lines = []
    async with clients(daemons) as found:
        for name, (block, count, pause_after) in cases.items():
            streams: dict[str, list[Stream]] = {side: [] for side in _SIDES}
            for number in range(rounds):
                for side, client in _SIDES.items():
                    id = f"{side}-{block}-{pause_after}-{number}"
                    fifo = f"{daemons.place}/{id}"
                    streams[side].append(await stream(found[client], id, fifo, block, count, pause_after))
            ours, theirs = (
                Stream(*(statistics.median(values) for values in zip(*streams[side], strict=True))) for side in _SIDES
            )
            if not pause_after:
                target = ">= 2" if block > 64 else ""
                lines.append(figure(f"{name}, throughput", ours.speed, theirs.speed, "MB/s", target))
            lines.append(figure(f"{name}, shim's CPU", ours.shim_cpu, theirs.shim_cpu, "ms", "<= 0.33"))
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5, help="rounds of each case")
    parser.add_argument("--megabytes", type=int, default=8192, help="what (a) writes; (b) writes a sixteenth of it")
    options = parser.parse_args()
    with running_daemons() as daemons:
        daemons.import_image()
        lines = asyncio.run(measure(daemons, options.count, options.megabytes))
    print(HEADING, *lines, sep="\n")


if __name__ == "__main__":
    main()

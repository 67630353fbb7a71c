#!/usr/bin/env python3
"""How long a warm client's exec of `true` takes: wherryd beside containerd with Debian's runc, and runc alone.

With Debian's runc on both sides, what each daemon adds to `runc exec` is its time less runc's; with --builtin wherryd's
shims have the runtime in process, and there is nothing to take off. Medians in milliseconds, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import BUILTIN, ENVIRONMENT, HEADING, RUNC, Daemons, clients, container, figure, running_daemons
from wherry.client.run import Task

_PROCESS = {
    "user": {"uid": 0, "gid": 0},
    "args": ["true"],
    "env": ["PATH=/bin"],
    "cwd": "/",
}


async def exec_true(task: Task, id: str) -> float:
    """Run `true` in a container and return the milliseconds from exec to delete."""
    began = time.perf_counter()
    await task.exec(id, _PROCESS, "", "", "", False)
    await task.start(id)
    if status := await task.wait(id):
        raise SystemExit(f"true: exit status {status}")
    await task.delete(id)
    return (time.perf_counter() - began) * 1000


def runc_exec(daemons: Daemons, id: str) -> float:
    """Run `true` with runc alone in containerd's container and return the milliseconds."""
    process = Path(daemons.place, "process.json")
    process.write_text(json.dumps(_PROCESS))
    root = f"/run/containerd/runc/{daemons.containerd.namespace}"
    began = time.perf_counter()
    subprocess.run(["runc", "--root", root, "exec", "--process", process, id], check=True, env=ENVIRONMENT)
    return (time.perf_counter() - began) * 1000


async def measure(daemons: Daemons, count: int, runc_binary: str = RUNC) -> list[str]:
    """Return the table's lines; `runc_binary` is wherryd's OCI runtime."""
    times: dict[str, list[float]] = {}
    sides = {"ours": "wherryd, ttrpc", "ours, gRPC": "wherryd, gRPC", "theirs": "containerd, gRPC"}
    async with clients(daemons) as found:
        ours, theirs = found["wherryd, ttrpc"], found["containerd, gRPC"]
        async with (
            container(ours, "e", ["sleep", "100000"], runc_binary=runc_binary),
            container(theirs, "e", ["sleep", "100000"]),
        ):
            for number in range(count + 2):
                taken = {
                    name: await exec_true(Task(found[side], "e"), f"e{number}{name[-1]}")
                    for name, side in sides.items()
                }
                taken["runc"] = runc_exec(daemons, "e")
                for name, milliseconds in taken.items():
                    if number >= 2:  # the first rounds warm caches
                        times.setdefault(name, []).append(milliseconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    alone = median["runc"]
    if runc_binary == BUILTIN:
        return [
            figure("exec of `true`, warm client", median["ours"], median["theirs"], "ms", "<= 0.33"),
            figure("the same, ours over gRPC", median["ours, gRPC"], median["theirs"], "ms", ""),
        ]
    return [
        figure("exec of `true`, warm client", median["ours"], median["theirs"], "ms", ""),
        figure(
            f"the same less `runc exec` alone ({alone:.1f} ms)",
            median["ours"] - alone,
            median["theirs"] - alone,
            "ms",
            "<= 0.5",
        ),
        figure("the same, ours over gRPC", median["ours, gRPC"] - alone, median["theirs"] - alone, "ms", ""),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="rounds")
    parser.add_argument("--builtin", action="store_true", help="wherryd with wherry's own OCI runtime")
    options = parser.parse_args()
    with running_daemons() as daemons:
        daemons.import_image()
        lines = asyncio.run(measure(daemons, options.count, BUILTIN if options.builtin else RUNC))
    print(HEADING, *lines, sep="\n")


if __name__ == "__main__":
    main()

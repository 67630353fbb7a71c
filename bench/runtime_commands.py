#!/usr/bin/env python3
"""How long each command of the OCI runtime takes from the shell: wherry-runc's and runc's, taking turns in one run.

A container manager calls four to six of them for a container, each a program of its own. The bundle is that of
bench/runtime_lifecycle.py, whose `true` waits to be started; `kill` comes to a container that was created.

Medians of CPU time (with that of the children that it waited for), which says more where others are at work, and of
time, as a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.daemons import ENVIRONMENT
from bench.runtimes import ID, Laboratory, Taken, laboratory

#: The life of two containers, in order: what is called, whether it is measured.
_LIVES = (
    (("run", "--bundle", "BUNDLE", ID), True),
    (("create", "--bundle", "BUNDLE", ID), True),
    (("state", ID), True),
    (("list",), True),
    (("start", ID), True),
    (("delete", "--force", ID), False),
    (("create", "--bundle", "BUNDLE", ID), False),
    (("kill", ID, "KILL"), True),
    (("delete", ID), True),
    (("--version",), True),
)

#: The first rounds warm caches.
_WARMING = 2

#: Seconds for a killed container to be gone.
_TIMEOUT = 10


def call(lab: Laboratory, command: list[str]) -> Taken:
    """Run a command, its output to nothing, and return what it took."""
    streams = [(os.POSIX_SPAWN_DUP2, lab.null, number) for number in (0, 1, 2)]
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, ENVIRONMENT, file_actions=streams)
    _pid, ended, usage = os.wait4(pid, 0)
    taken = (time.perf_counter() - began) * 1000
    if os.waitstatus_to_exitcode(ended):
        raise SystemExit(f"{' '.join(command)}: failed")
    return Taken(taken, (usage.ru_utime + usage.ru_stime) * 1000)


def live(lab: Laboratory, program: list[str]) -> dict[str, Taken]:
    """Have two containers live, and return what each command took."""
    found = {}
    for words, measured in _LIVES:
        taken = call(lab, [*program, *(str(lab.bundle) if word == "BUNDLE" else word for word in words)])
        if measured:
            found[words[0]] = taken
        if words[0] == "kill":
            _wait_until_stopped(program)
    return found


def _wait_until_stopped(program: list[str]) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        state = subprocess.run([*program, "state", ID], capture_output=True, check=True, env=ENVIRONMENT).stdout
        if b'"stopped"' in state:
            return
    raise SystemExit("a container does not end")


def table(ours: list[dict[str, Taken]], theirs: list[dict[str, Taken]]) -> list[str]:
    """Return the table's lines."""
    lines = [
        "| command | wherry-runc, CPU | runc, CPU | ratio | wherry-runc, time | runc, time | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ours[0]:
        cells = []
        for field in ("cpu", "time"):
            mine, other = (statistics.median(getattr(each[name], field) for each in side) for side in (ours, theirs))
            cells += [f"{mine:.1f} ms", f"{other:.1f} ms", f"{mine / other:.2f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="rounds")
    options = parser.parse_args()
    ours: list[dict[str, Taken]] = []
    theirs: list[dict[str, Taken]] = []
    with laboratory() as lab:
        sides = ((ours, lab.program(str(lab.wherry_runc[0]))), (theirs, lab.program("runc")))
        for number in range(options.count + _WARMING):
            for side, program in sides:
                lives = live(lab, program)
                if number >= _WARMING:
                    side.append(lives)
    print(*table(ours, theirs), sep="\n")
    print(f"\nLoad averages at the end: {', '.join(f'{load:.1f}' for load in os.getloadavg())}.")


if __name__ == "__main__":
    main()

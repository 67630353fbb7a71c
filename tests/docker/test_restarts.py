"""dockerd, the daemon below it, and the shims: each ends, or is killed, and the containers are none the worse."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from tests.docker.transcript import ENDS, IMAGE, Side, differential
from tests.harness import leaks

#: dockerd's name of containerd's first runtime.
V1 = "io.containerd.runtime.v1.linux"


def play_on(side: Side, name: str) -> None:
    """Do with a container what dockerd learns of by events alone, and end it."""
    side.docker("exec", name, "sh", "-c", "echo still here; exit 3")
    side.docker("pause", name)
    side.docker("unpause", name)
    side.docker("stop", name)
    side.state(name)


def end_below(side: Side, id: str) -> None:
    """Have a container end that dockerd is not there to hear of."""
    side.dockerd.below.ctr("tasks", "kill", "--signal", "USR1", id, namespace=side.dockerd.moby).check()

    def stopped() -> bool:
        rows = side.dockerd.below.ctr("tasks", "ls", namespace=side.dockerd.moby).check().text.splitlines()
        return any(row.split()[0] == id and row.split()[-1] == "STOPPED" for row in rows)

    side.until(stopped, "it goes on")


@differential
def test_dockerd_with_live_restore(side: Side) -> None:
    for name in ("box", "one", "two"):
        side.started(name, IMAGE, *ENDS)
        side.ready(name)
    for name, end in (("one", side.dockerd.kill), ("two", side.dockerd.stop)):
        id = side.inspected(name, ".Id")
        end()
        end_below(side, id)
        side.dockerd.start()
        side.wait_for(name, "exited")
        side.state(name)
        side.state("box")
    side.docker("top", "box", "-o", "pid,args")
    play_on(side, "box")


@differential
def test_dockerd_without_live_restore(side: Side) -> None:
    side.started("box", IMAGE, *ENDS)
    side.started("again", "--restart", "always", IMAGE, *ENDS)
    side.ready("box")
    side.dockerd.kill()
    side.dockerd.live_restore = False
    try:
        side.dockerd.start()
        side.wait_for("box", "exited")
        side.state("box")
        side.wait_for("again", "running")
        # It stops them before it ends.
        side.docker("start", "box")
        side.dockerd.stop()
        side.note("tasks", side.dockerd.below.listed("tasks", side.dockerd.moby))
        side.dockerd.start()
        side.state("box")
        side.wait_for("again", "running")
        side.docker("rm", "--force", "again")
    finally:
        side.dockerd.stop()
        side.dockerd.live_restore = True
        side.dockerd.start()


@differential
def test_the_daemon_below(side: Side) -> None:
    below = side.dockerd.below
    for name, flags in (("box", ()), ("first", ("--runtime", V1))):
        side.started(name, *flags, IMAGE, *ENDS)
        side.ready(name)
    for end in (below.stop, below.kill):
        heard = side.dockerd.subscriptions
        end()
        below.start()
        side.until(partial(_subscribed, side, heard), "dockerd does not listen again")
        side.docker("exec", "box", "sh", "-c", "echo in; exit 3")
    play_on(side, "box")
    play_on(side, "first")
    side.run("--rm", IMAGE, "sh", "-c", "exit 4")


def _subscribed(side: Side, before: int) -> bool:
    return side.dockerd.subscriptions > before


@differential
def test_killed_shims(side: Side) -> None:
    for name, flags in (("box", ()), ("first", ("--runtime", V1))):
        side.started(name, *flags, IMAGE, *ENDS)
        side.ready(name)
        os.kill(shim(side, name), signal.SIGKILL)
        side.wait_for(name, "exited")
        side.state(name)
    side.docker("start", "box")
    side.ready("box")
    side.docker("stop", "box")
    side.state("box")


def shim(side: Side, name: str) -> int:
    """Return the pid of a container's shim: the parent of its first process."""
    pid = side.inspected(name, ".State.Pid")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    assert any(int(line.split()[0]) == parent for line in leaks.processes(side.dockerd.moby)), "not a shim of ours"
    return parent

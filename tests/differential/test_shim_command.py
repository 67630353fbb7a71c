"""`ctr shim`, which talks to a shim past its daemon."""

from __future__ import annotations

from pathlib import Path

from tests.differential.test_tasks import started
from tests.differential.transcript import Side, differential

V2 = "io.containerd.runc.v2"


@differential
def test_shim_command(side: Side, busybox_archive: Path) -> None:
    """ctr finds the socket by containerd's rule and sends no namespace.

    Only `state` can work: `start` and `delete` of ctr 1.6 do not name the container, and its `exec` panics before it
    says anything to the shim.
    """
    box = started(side, busybox_archive, V2)
    shim = ("shim", "--id", box)
    side.ctr(*shim, "state")
    side.ctr(*shim, "start")
    side.ctr(*shim, "delete")
    side.ctr("shim", "--id", "absent", "state")
    side.ctr("shim", "state")
    side.ctr("tasks", "exec", "--exec-id", "e1", box, "echo", "none the worse")
    side.ctr("tasks", "kill", "--signal", "KILL", box)
    side.wait_for(box, "STOPPED")
    side.ctr(*shim, "state")
    side.ctr("tasks", "rm", box)
    side.ctr(*shim, "state")

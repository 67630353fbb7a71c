"""Several containers in one shim, by containerd's annotation: ours and Debian's, under wherryd and under containerd."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Containerd, Daemon, Wherryd
from tests.harness.names import unique
from tests.runtime.test_survival import STOCK, gone, tasks, until

#: Whose daemon, and whose shim.
SIDES = {
    "wherryd, forked": (Wherryd, "", "io.containerd.runc.v2"),
    "wherryd, started": (Wherryd, "", str(COMMANDS / "containerd-shim-wherry-v2")),
    "wherryd, Debian's": (Wherryd, STOCK, "io.containerd.runc.v2"),
    "containerd, ours": (Containerd, "", str(COMMANDS / "containerd-shim-wherry-v2")),
    "containerd, Debian's": (Containerd, "", "io.containerd.runc.v2"),
}


class Pods:
    """A daemon, and containers in groups."""

    def __init__(self, daemon: Daemon, runtime: str) -> None:
        self.daemon = daemon
        self.namespace = daemon.namespace()
        self._runtime = runtime

    def ctr(self, *arguments: str | Path) -> str:
        return self.daemon.ctr(*arguments, namespace=self.namespace).check().text

    def run(self, group: str = "", annotation: str = "io.containerd.runc.v2.group") -> str:
        """Start a container that waits, in a group if one is named; returns its id."""
        id = self.daemon.id()
        flags = ["--annotation", f"{annotation}={group}"] if group else []
        self.ctr(
            *("run", "--detach", "--null-io", "--runtime", self._runtime, *flags, BUSYBOX, id),
            *("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"),
        )
        return id

    def remove(self, id: str) -> None:
        """Kill a container, and remove its task and record."""
        self.ctr("tasks", "kill", "--signal", "SIGKILL", id)
        until(lambda: tasks(self.daemon, self.namespace)[id][1] == "STOPPED", "stopped")
        self.daemon.ctr("tasks", "rm", id, namespace=self.namespace)
        self.ctr("containers", "rm", id)

    @property
    def shims(self) -> list[int]:
        """The shims' pids."""
        return sorted(int(line.split()[0]) for line in leaks.processes(self.namespace) if " -id " in line)

    def works(self, id: str) -> bool:
        """Whether an exec in a container says what it should."""
        return self.ctr("tasks", "exec", "--exec-id", unique("e"), id, "echo", "it works") == "it works\n"


@pytest.fixture(params=list(SIDES))
def pods(request: pytest.FixtureRequest, start_daemon: StartDaemon, busybox_archive: Path) -> Pods:
    kind, config, runtime = SIDES[request.param]
    made = Pods(start_daemon(kind(config=config)), runtime)
    made.ctr("images", "import", busybox_archive)
    return made


def test_containers_of_a_group_share_a_shim(pods: Pods) -> None:
    group = unique("pod")
    first, second = pods.run(group), pods.run(group)
    # An init looks like its shim until it has become its program.
    until(lambda: len(pods.shims) == 1, "one shim")
    (shim,) = pods.shims
    sandboxed, alone = pods.run(group, "io.kubernetes.cri.sandbox-id"), pods.run()
    until(lambda: len(pods.shims) == 2, "two shims")
    assert all(map(pods.works, (first, second, sandboxed, alone)))
    pods.remove(alone)
    assert pods.shims == [shim]
    pods.remove(first)
    assert pods.works(second) and pods.works(sandboxed)
    third = pods.run(group)
    until(lambda: pods.shims == [shim], "the one shim")
    assert pods.works(third)
    for id in (second, sandboxed, third):
        pods.remove(id)
    until(lambda: pods.shims == [], "ended")


def test_a_container_that_cannot_be_created_leaves_the_others(pods: Pods) -> None:
    group = unique("pod")
    first = pods.run(group)
    failed = pods.daemon.ctr(
        *("run", "--rm", "--annotation", f"io.containerd.runc.v2.group={group}", "--runtime", pods._runtime),
        *(BUSYBOX, pods.daemon.id(), "/absent"),
        namespace=pods.namespace,
    )
    assert failed.code == 1 and "/absent" in failed.error_text
    until(lambda: len(pods.shims) == 1, "one shim")
    assert pods.works(first)
    second = pods.run(group)
    until(lambda: len(pods.shims) == 1, "the same shim")
    for id in (first, second):
        pods.remove(id)
    until(lambda: pods.shims == [], "ended")


def test_a_group_outlives_the_daemon(pods: Pods) -> None:
    group = unique("pod")
    boxes = [pods.run(group), pods.run(group)]
    before = tasks(pods.daemon, pods.namespace), pods.shims
    pods.daemon.kill()
    pods.daemon.start()
    assert (tasks(pods.daemon, pods.namespace), pods.shims) == before
    boxes.append(pods.run(group))
    assert pods.shims == before[1] and all(map(pods.works, boxes))
    for id in boxes:
        pods.remove(id)
    until(lambda: pods.shims == [], "ended")


def test_a_dead_shim_takes_its_group_along(pods: Pods) -> None:
    group = unique("pod")
    boxes = [pods.run(group), pods.run(group)]
    pids = [pid for pid, _status in tasks(pods.daemon, pods.namespace).values()]
    (shim,) = pods.shims
    os.kill(shim, signal.SIGKILL)
    until(lambda: not tasks(pods.daemon, pods.namespace), "cleaned up")
    until(lambda: all(map(gone, pids)), "killed")
    again = pods.run(group)
    assert pods.works(again)
    pods.remove(again)
    for id in boxes:
        pods.ctr("containers", "rm", id)

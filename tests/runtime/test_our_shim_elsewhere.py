"""Debian's containerd with our shim, under both command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Containerd
from tests.runtime.test_survival import tasks, until

SHIM_V1 = f"""
[plugins."io.containerd.runtime.v1.linux"]
  shim = "{COMMANDS / "wherry-shim"}"
"""

RUNTIMES = (str(COMMANDS / "containerd-shim-wherry-v2"), "io.containerd.runtime.v1.linux")


@pytest.fixture
def containerd_with_us(start_daemon: StartDaemon) -> Containerd:
    return start_daemon(Containerd(config=SHIM_V1))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_run_flow(containerd_with_us: Containerd, busybox_archive: Path, runtime: str) -> None:
    daemon = containerd_with_us
    namespace, id = daemon.namespace(), daemon.id()

    def ctr(*arguments: str | Path) -> str:
        return daemon.ctr(*arguments, namespace=namespace).check().text

    ctr("images", "import", busybox_archive)
    ran = daemon.ctr(
        "run", "--rm", "--runtime", runtime, BUSYBOX, daemon.id(), "sh", "-c", "echo out; exit 5", namespace=namespace
    )
    assert (ran.code, ran.text) == (5, "out\n")
    ctr("run", "--detach", "--runtime", runtime, BUSYBOX, id, "sleep", "1000")
    assert ctr("tasks", "exec", "--exec-id", "one", id, "echo", "in exec") == "in exec\n"
    ctr("tasks", "pause", id)
    assert tasks(daemon, namespace)[id][1] == "PAUSED"
    ctr("tasks", "resume", id)
    assert str(tasks(daemon, namespace)[id][0]) in ctr("tasks", "ps", id)
    daemon.stop()
    daemon.start()
    assert tasks(daemon, namespace)[id][1] == "RUNNING"
    ctr("tasks", "kill", "--signal", "SIGKILL", id)
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    removed = daemon.ctr("tasks", "rm", id, namespace=namespace)
    assert "exit with non-zero exit code 137" in removed.error_text
    ctr("containers", "rm", id)

"""NoShim: the daemon itself is the shim of its containers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd
from tests.runtime.test_survival import RUNTIMES, gone, tasks, until
from wherry.oci import spec

#: Both runtimes of containerd's, with ours below them, which is a program here as well; and with runc.
FLAGS = (*(("--runtime", runtime) for runtime in RUNTIMES), ("--runc-binary", "runc"))


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Wherryd:
    return start_daemon(Wherryd(config="no_shim = true\n"))


@pytest.fixture
def namespace(daemon: Wherryd, busybox_archive: Path) -> str:
    name = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=name).check()
    return name


@pytest.mark.parametrize("flags", FLAGS)
def test_the_run_flow(daemon: Wherryd, namespace: str, flags: tuple[str, ...]) -> None:
    id = daemon.id()

    def ctr(*arguments: str | Path) -> str:
        return daemon.ctr(*arguments, namespace=namespace).check().text

    ran = daemon.ctr("run", "--rm", *flags, BUSYBOX, daemon.id(), "sh", "-c", "echo out; exit 5", namespace=namespace)
    assert (ran.code, ran.text) == (5, "out\n")
    failed = daemon.ctr("run", "--rm", *flags, BUSYBOX, daemon.id(), "/absent", namespace=namespace)
    assert failed.code == 1 and "/absent" in failed.error_text
    ctr("run", "--detach", *flags, BUSYBOX, id, "sleep", "1000")
    pid, status = tasks(daemon, namespace)[id]
    assert status == "RUNNING"
    assert f"PPid:\t{daemon.pid}\n" in Path(f"/proc/{pid}/status").read_text()
    assert not [line for line in leaks.processes(namespace) if "shim" in line]
    assert leaks.states_of_ours(namespace) == ([] if "runc" in flags else [id])
    assert ctr("tasks", "exec", "--exec-id", "one", id, "echo", "in exec") == "in exec\n"
    with daemon.ctr_terminal("tasks", "exec", "--tty", "--exec-id", "two", id, "tty", namespace=namespace) as terminal:
        terminal.read_until("/dev/pts/0")
        assert terminal.wait() == 0
    ctr("tasks", "pause", id)
    assert tasks(daemon, namespace)[id][1] == "PAUSED"
    ctr("tasks", "resume", id)
    assert str(pid) in ctr("tasks", "ps", id)
    assert "memory" in ctr("tasks", "metrics", id)
    ctr("tasks", "kill", "--signal", "SIGKILL", id)
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    removed = daemon.ctr("tasks", "rm", id, namespace=namespace)
    assert "exit with non-zero exit code 137" in removed.error_text
    ctr("containers", "rm", id)


def test_many_at_once(daemon: Wherryd, namespace: str) -> None:
    def run(number: int) -> tuple[int, str]:
        script = f"(sleep 0.01 &) ; echo {number}; exit {number}"
        ran = daemon.ctr("run", "--rm", BUSYBOX, f"{box}-{number}", "sh", "-c", script, namespace=namespace)
        return ran.code, ran.text

    box = daemon.id()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(40))) == [(number, f"{number}\n") for number in range(40)]


@pytest.mark.parametrize("flags", (FLAGS[0], FLAGS[-1]))
def test_a_stopped_daemon_takes_its_containers_along(daemon: Wherryd, namespace: str, flags: tuple[str, ...]) -> None:
    boxes = [daemon.id() for _ in range(3)]
    for box in boxes:
        daemon.ctr("run", "--detach", "--null-io", *flags, BUSYBOX, box, "sleep", "1000", namespace=namespace).check()
    pids = [pid for pid, _status in tasks(daemon, namespace).values()]
    assert daemon.stop() == 0
    assert all(map(gone, pids))
    assert leaks.entries(daemon.state / "io.containerd.runtime.v2.task" / namespace) == []
    daemon.start()
    assert tasks(daemon, namespace) == {}
    for box in boxes:
        daemon.ctr("containers", "rm", box, namespace=namespace).check()


@pytest.mark.parametrize("flags", FLAGS)
def test_what_a_killed_daemon_left_is_cleaned_up(daemon: Wherryd, namespace: str, flags: tuple[str, ...]) -> None:
    box = daemon.id()
    command = ("run", "--detach", "--null-io", *flags, BUSYBOX, box, "sleep", "1000")
    daemon.ctr(*command, namespace=namespace).check()
    pid, _status = tasks(daemon, namespace)[box]
    daemon.kill()
    assert not gone(pid)
    daemon.start()
    until(lambda: gone(pid), "killed")
    assert tasks(daemon, namespace) == {}
    daemon.ctr("containers", "rm", box, namespace=namespace).check()


def test_orphans_are_collected(daemon: Wherryd, namespace: str, busybox_rootfs: Path, tmp_path: Path) -> None:
    """Without a pid namespace of its own a container leaves its orphans to the daemon."""
    box, root, config = daemon.id(), tmp_path / "root", tmp_path / "config.json"
    root.mkdir()
    subprocess.run(["tar", "-xf", busybox_rootfs, "-C", root], check=True)
    document = spec.default_spec(namespace, box)
    document["root"]["path"] = str(root)
    script = "for i in 1 2 3 4 5; do (sh -c 'sleep 0.2' &) ; done; sleep 1000"
    document["process"]["args"] = ["/bin/sh", "-c", script]
    document["process"]["env"] = ["PATH=/bin"]
    document["linux"]["namespaces"] = [each for each in document["linux"]["namespaces"] if each["type"] != "pid"]
    config.write_text(json.dumps(document))
    daemon.ctr("run", "--detach", "--null-io", "--config", config, box, namespace=namespace).check()
    time.sleep(0.5)

    def zombies() -> list[str]:
        listing = subprocess.run(["ps", "-o", "stat=", "--ppid", str(daemon.pid)], capture_output=True, text=True)
        return [line for line in listing.stdout.split() if line.startswith("Z")]

    assert len(zombies()) >= 5
    until(lambda: zombies() == [], "collected")
    pid, _status = tasks(daemon, namespace)[box]
    os.kill(pid, signal.SIGKILL)
    until(lambda: tasks(daemon, namespace)[box][1] == "STOPPED", "stopped")
    daemon.ctr("tasks", "rm", box, namespace=namespace)
    daemon.ctr("containers", "rm", box, namespace=namespace).check()


def test_debians_shims_beside_it(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    """Other shims stay processes of their own, and are waited for by whoever started them."""
    config = 'no_shim = true\n[runtimes."io.containerd.runc.v2"]\nshim = "/usr/bin/containerd-shim-runc-v2"\n'
    daemon = start_daemon(Wherryd(config=config))
    namespace = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    for number in range(3):
        for runtime in ("io.containerd.runc.v2", "io.containerd.wherry.v2"):
            ran = daemon.ctr(
                "run",
                "--rm",
                "--runtime",
                runtime,
                BUSYBOX,
                daemon.id(),
                "sh",
                "-c",
                f"exit {number}",
                namespace=namespace,
            )
            assert (ran.code, ran.error_text) == (number, "")

"""An upgrade under living shims: the package they came from is gone, and they do all their work as before."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Wherryd
from tests.runtime.test_survival import tasks, until

#: What a shim's modules are from. A copy of each is what is replaced.
PACKAGES = ("wherry", "google")

RUNTIMES = (
    "io.containerd.runc.v2",
    "io.containerd.runtime.v1.linux",
    str(COMMANDS / "containerd-shim-wherry-v2"),
)


def install(site: Path) -> None:
    """Copy the packages to a directory that goes before the installed ones."""
    site.mkdir()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.submodule_search_locations is not None
        (origin,) = spec.submodule_search_locations
        shutil.copytree(origin, site / package, ignore=shutil.ignore_patterns("__pycache__"))


def replace(site: Path) -> None:
    """Put packages of other versions, in which nothing is where it was, in the place of the copies."""
    shutil.rmtree(site)
    for package in PACKAGES:
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise ImportError('an import after the package was replaced')\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_shim_outlives_its_package(
    start_daemon: StartDaemon, busybox_archive: Path, tmp_path: Path, runtime: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    install(old)
    daemon = Wherryd(env={"PYTHONPATH": str(old)})
    start_daemon(daemon)
    namespace, id = daemon.namespace(), daemon.id()

    def ctr(*arguments: str | Path) -> str:
        return daemon.ctr(*arguments, namespace=namespace).check().text

    ctr("images", "import", busybox_archive)
    ctr("run", "--detach", "--runtime", runtime, "--memory-limit", "67108864", BUSYBOX, id, "sleep", "1000")
    (shim,) = (line for line in leaks.processes(namespace) if "-namespace" in line)
    assert str(old) in Path(f"/proc/{shim.split()[0]}/maps").read_text(), "the shim is not from the copy"
    install(new)
    daemon.stop()
    replace(old)
    daemon._env["PYTHONPATH"] = str(new)
    daemon.start()

    assert tasks(daemon, namespace)[id][1] == "RUNNING"
    assert ctr("tasks", "exec", "--exec-id", "one", id, "echo", "in exec") == "in exec\n"
    with daemon.ctr_terminal(
        "tasks",
        "exec",
        "--tty",
        "--exec-id",
        "two",
        id,
        "sh",
        "-c",
        "echo ready; read x; stty size; exit 3",
        namespace=namespace,
    ) as terminal:
        terminal.read_until("ready")
        terminal.resize(33, 99)
        terminal.enter("\r")
        assert terminal.wait() == 3
    failed = daemon.ctr("tasks", "exec", "--exec-id", "three", id, "/absent", namespace=namespace)
    assert "/absent" in failed.error_text
    ctr("tasks", "pause", id)
    assert tasks(daemon, namespace)[id][1] == "PAUSED"
    ctr("tasks", "resume", id)
    assert "limit_in_bytes" in ctr("tasks", "metrics", id) or "memory" in ctr("tasks", "metrics", id)
    assert str(tasks(daemon, namespace)[id][0]) in ctr("tasks", "ps", id)
    assert "absent" in daemon.ctr("tasks", "kill", "--exec-id", "absent", id, namespace=namespace).error_text
    ctr("tasks", "kill", "--signal", "SIGKILL", id)
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    removed = daemon.ctr("tasks", "rm", id, namespace=namespace)
    assert "exit with non-zero exit code 137" in removed.error_text
    ctr("containers", "rm", id)
    assert "replaced" not in daemon.log.read_text()

"""What outlives what: containers their daemon, daemons their containers' shims."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Daemon, Wherryd
from tests.harness.events import listening
from wherry.api import shim_socket
from wherry.daemon.runtime.shims import ShimProcess

STOCK = """
[runtimes."io.containerd.runc.v2"]
shim = "/usr/bin/containerd-shim-runc-v2"
[runtimes."io.containerd.runtime.v1.linux"]
shim = "/usr/bin/containerd-shim"
"""

RUNTIMES = ("io.containerd.runc.v2", "io.containerd.runtime.v1.linux")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.05)


def tasks(daemon: Daemon, namespace: str) -> dict[str, tuple[int, str]]:
    """Return each task's pid and status."""
    lines = daemon.ctr("tasks", "ls", namespace=namespace).check().text.splitlines()[1:]
    return {words[0]: (int(words[1]), words[2]) for words in map(str.split, lines)}


def shim_pid(namespace: str, id: str) -> int:
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"-namespace" in words and namespace.encode() in words and id.encode() in words:
            return int(entry.name)
    raise AssertionError(f"no shim of {namespace}/{id}")


@pytest.fixture(params=["ours", "stock"])
def daemon(request: pytest.FixtureRequest, start_daemon: StartDaemon) -> Wherryd:
    return start_daemon(Wherryd(config=STOCK if request.param == "stock" else ""))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_container_outlives_a_killed_daemon(daemon: Wherryd, busybox_archive: Path, runtime: str) -> None:
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    flags = ("run", "--detach", "--runtime", runtime, BUSYBOX, id)
    daemon.ctr(*flags, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done", namespace=namespace).check()
    before = tasks(daemon, namespace)
    daemon.kill()
    os.kill(before[id][0], 0)
    daemon.start()
    assert tasks(daemon, namespace) == before
    daemon.ctr("tasks", "kill", id, namespace=namespace).check()
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    removed = daemon.ctr("tasks", "rm", id, namespace=namespace)
    assert "exit with non-zero exit code 7" in removed.error_text
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_killed_shim_takes_its_container_along(daemon: Wherryd, busybox_archive: Path, runtime: str) -> None:
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    flags = ("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, id, "sleep", "1000")
    daemon.ctr(*flags, namespace=namespace).check()
    pid, _status = tasks(daemon, namespace)[id]
    shim = (
        int((daemon.state / runtime_folder(runtime) / namespace / id / "shim.pid").read_text())
        if (daemon.state / runtime_folder(runtime) / namespace / id / "shim.pid").exists()
        else shim_pid(namespace, id)
    )
    os.kill(shim, signal.SIGKILL)
    until(lambda: not tasks(daemon, namespace), "cleaned up")
    until(lambda: not Path(f"/proc/{pid}/exe").exists() or gone(pid), "killed")
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def runtime_folder(runtime: str) -> str:
    return "io.containerd.runtime.v1.linux" if "v1" in runtime else "io.containerd.runtime.v2.task"


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_shim_that_died_with_the_daemon_is_cleaned_up_at_the_next_start(
    start_daemon: StartDaemon, busybox_archive: Path
) -> None:
    daemon = start_daemon(Wherryd())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    daemon.ctr("run", "--detach", "--null-io", BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
    pid, _status = tasks(daemon, namespace)[id]
    shim = shim_pid(namespace, id)
    daemon.kill()
    os.kill(shim, signal.SIGKILL)
    daemon.start()
    until(lambda: not tasks(daemon, namespace), "cleaned up")
    until(lambda: gone(pid), "killed")
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def _listener_of(pid: int) -> int:
    """Return a descriptor of our own for the socket that a process listens on: pidfd_getfd(2)."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            fd = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, int(name), 0)
            with contextlib.suppress(OSError), socket.socket(fileno=fd) as found:
                if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    return found.detach()
    finally:
        os.close(pidfd)
    raise AssertionError("it listens nowhere")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_dead_shims_socket_goes_though_a_child_of_it_holds_it(
    start_daemon: StartDaemon, busybox_archive: Path, runtime: str
) -> None:
    daemon = start_daemon(Wherryd())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    flags = ("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, id, "sleep", "1000")
    daemon.ctr(*flags, namespace=namespace).check()
    shim = shim_pid(namespace, id)
    held = _listener_of(shim)
    os.kill(shim, signal.SIGKILL)
    until(lambda: not (daemon.state / runtime_folder(runtime) / namespace / id).exists(), "cleaned up")
    assert not leaks.shim_socket(daemon.address, namespace, id).exists()
    os.close(held)
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def test_a_dead_shims_socket_is_told_from_its_successors(tmp_path: Path) -> None:
    """Though the file system gives the number of the inode to the next file."""
    path = str(tmp_path / "s")
    ended = subprocess.Popen(["true"], stdout=subprocess.DEVNULL)
    pidfd = os.pidfd_open(ended.pid)
    shim_socket.listen(path).close()
    shim = ShimProcess(f"unix://{path}", 3, "x", ended.pid, pidfd)
    ended.wait()
    shim_socket.listen(path).close()
    shim.remove_socket()
    assert os.path.exists(path)
    own = ShimProcess(f"unix://{path}", 3, "x", ended.pid, os.dup(pidfd))
    own.remove_socket()
    assert not os.path.exists(path)
    for each in (shim, own):
        each.close()


def test_how_it_ended_is_told_though_the_shim_that_saw_it_was_killed(
    start_daemon: StartDaemon, busybox_archive: Path
) -> None:
    daemon = start_daemon(Wherryd())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    daemon.ctr("run", "--detach", "--null-io", BUSYBOX, id, "sh", "-c", "exit 7", namespace=namespace).check()
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    with listening(daemon, namespace) as heard:
        assert heard.stdout is not None
        os.kill(shim_pid(namespace, id), signal.SIGKILL)
        line = next(line for line in heard.stdout if "/tasks/" in line)
    assert "/tasks/delete" in line, "its exit was told before"
    assert '"exit_status":7' in line
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def test_a_runtime_that_outlives_its_shim_leaves_nothing(
    start_daemon: StartDaemon, busybox_archive: Path, tmp_path: Path
) -> None:
    """Orphaned in the middle of create, runc goes on: it makes mount points, with the directories above them."""
    daemon = start_daemon(Wherryd())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    slow = tmp_path / "slow-runc"
    started = tmp_path / "started"
    mount_point = daemon.state / "io.containerd.runtime.v2.task" / namespace / id / "rootfs" / "proc"
    create = f"touch {started}; sleep 1; mkdir -p {mount_point}"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *" create "*) {create};; esac\nexec runc "$@"\n')
    slow.chmod(0o755)
    words = ["run", "--null-io", "--detach", "--runc-binary", str(slow), BUSYBOX, id, "sleep", "100"]
    running = subprocess.Popen(daemon.ctr_command(*words, namespace=namespace), stderr=subprocess.DEVNULL)
    until(started.exists, "started")
    os.kill(shim_pid(namespace, id), signal.SIGKILL)
    assert running.wait(30)
    time.sleep(1.5)  # what the orphan makes
    left = leaks.entries(daemon.state / "io.containerd.runtime.v2.task" / namespace)
    left += leaks.entries(Path("/run/containerd/runc") / namespace)
    assert not left and not leaks.cgroups(namespace)


def test_a_dead_zygote_is_replaced(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    daemon = start_daemon(Wherryd())
    namespace = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    zygotes = [int(pid) for pid in children if b"wherry-zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(zygotes) == 1
    os.kill(zygotes[0], signal.SIGKILL)
    result = daemon.ctr("run", "--rm", BUSYBOX, daemon.id(), "echo", "still", namespace=namespace).check()
    assert result.text == "still\n"


def test_ps_shows_a_forked_shim_as_one(start_daemon: StartDaemon, busybox_archive: Path) -> None:
    daemon = start_daemon(Wherryd())
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    daemon.ctr("run", "--detach", "--null-io", BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
    shim = Path(f"/proc/{shim_pid(namespace, id)}")
    words = (shim / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    expected = ["containerd-shim-wherry-v2", "-namespace", namespace, "-id", id, "-address", daemon.address]
    assert words == expected
    assert len(list((shim / "task").iterdir())) == 1, "a shim has one thread"
    daemon.ctr("tasks", "rm", "--force", id, namespace=namespace)
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def test_commands_are_installed() -> None:
    for name in ("wherry", "wherryd", "containerd-shim-wherry-v2", "wherry-shim"):
        assert os.access(COMMANDS / name, os.X_OK)

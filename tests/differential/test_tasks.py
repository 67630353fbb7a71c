"""`ctr tasks`, under both runtimes."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.differential.transcript import TERMINAL_SCRIPT, Side, differential, use_terminal
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import alive

both_runtimes = pytest.mark.parametrize(
    "runtime", ["io.containerd.runc.v2", "io.containerd.runtime.v1.linux"], ids=["v2", "v1"]
)


def started(side: Side, archive: Path, runtime: str, *command: str) -> str:
    """Start a container that runs on; returns its id."""
    side.quietly("images", "import", archive)
    box = side.id("box")
    side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, box, *(command or ("sleep", "1000")))
    return box


@both_runtimes
@differential
def test_list(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.ctr("tasks", "ls")
    box = started(side, busybox_archive, runtime)
    side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, side.id("second"), "true")
    side.wait_for(side.id("second"), "STOPPED")
    side.ctr("tasks", "ls")
    side.ctr("tasks", "ls", "-q")
    side.ctr("tasks", "rm", box, side.id("second"))
    side.ctr("tasks", "rm", "--force", box)
    side.ctr("tasks", "ls")


@both_runtimes
@differential
def test_ps(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    side.ctr("tasks", "ps", box)
    side.ctr("tasks", "exec", "--detach", "--exec-id", "sleeper", box, "sleep", "1000")
    side.ctr("tasks", "ps", box)
    side.ctr("tasks", "kill", "--exec-id", "sleeper", "--signal", "9", box)
    side.ctr("tasks", "ps", "absent")
    side.ctr("tasks", "ps")


@both_runtimes
@differential
def test_exec(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    execute = ("tasks", "exec", "--exec-id", "e1")
    side.ctr(*execute, box, "sh", "-c", "echo out; echo err >&2; exit 3")
    side.ctr(*execute, box, "sh", "-c", "read line; echo got $line", input=b"typed\n")
    side.ctr(*execute, "--cwd", "/tmp", box, "pwd")
    side.ctr(*execute, "--user", "guest", box, "id")
    side.ctr(*execute, "--user", "1000:2000", box, "id")
    side.ctr(*execute, box, "sh", "-c", "kill -9 $$")
    side.ctr(*execute, box, "sh", "-c", "env | sort; grep ^Cap /proc/self/status")
    side.ctr("tasks", "ps", box)


@both_runtimes
@differential
def test_exec_errors(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    execute = ("tasks", "exec", "--exec-id", "e1")
    side.ctr(*execute, box, "/absent")
    side.ctr(*execute, box, "absent-program")
    side.ctr(*execute, box, "/etc/passwd")
    side.ctr(*execute, "--cwd", "/absent", box, "pwd")
    side.ctr(*execute, "--user", "absent", box, "id")
    side.ctr("tasks", "exec", box, "true")
    side.ctr("tasks", "exec", "--exec-id", "bad--id", box, "true")
    side.ctr(*execute, "absent", "true")
    side.ctr(*execute, "--detach", box, "sleep", "1000")
    side.ctr(*execute, box, "true")
    side.ctr("tasks", "ps", box)


@both_runtimes
@differential
def test_exec_in_a_terminal(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    command = ("sh", "-c", TERMINAL_SCRIPT)
    with side.terminal("tasks", "exec", "--tty", "--exec-id", "e1", box, *command) as terminal:
        use_terminal(terminal)
    side.ctr("tasks", "ps", box)


@both_runtimes
@differential
def test_kill_an_exec(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    side.ctr("tasks", "exec", "--detach", "--exec-id", "e1", box, "sleep", "1000")
    side.ctr("tasks", "kill", "--exec-id", "absent", box)
    side.ctr("tasks", "rm", "--exec-id", "e1", box)
    side.ctr("tasks", "kill", "--exec-id", "e1", "--signal", "SIGKILL", box)
    side.until(lambda: len(side.quietly("tasks", "ps", box).text.splitlines()) == 2, "the exec stays")
    side.ctr("tasks", "rm", "--exec-id", "e1", box)
    side.ctr("tasks", "rm", "--exec-id", "e1", box)


@both_runtimes
@differential
def test_attach(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    script = "read line; echo got $line; exit 3"
    side.quietly("run", "--detach", "--runtime", runtime, BUSYBOX, box, "sh", "-c", script)
    side.ctr("tasks", "attach", box, input=b"hello\n")
    side.ctr("tasks", "ls")
    side.ctr("tasks", "attach", "absent")
    side.ctr("tasks", "attach")


@both_runtimes
@differential
def test_attach_to_a_terminal(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    # What is printed right before the end may be lost in ctr, which closes its streams when the task has ended.
    script = 'while [ -t 0 ] && ! read line; do :; done; echo "got $line"; read line; exit 4'
    # Detached in a terminal: the container has one as well, which is there when somebody attaches.
    with side.terminal("run", "--detach", "--tty", "--runtime", runtime, BUSYBOX, box, "sh", "-c", script) as terminal:
        terminal.wait()
    with side.terminal("tasks", "attach", box) as terminal:
        terminal.enter("a line\n")
        terminal.read_until("got a line")
        terminal.enter("\n")
        terminal.wait()
    side.ctr("tasks", "ls")


@pytest.mark.parametrize("name", ["SIGTERM", "KILL", "15", "sigusr1", "nonsense", "99", "0"])
@both_runtimes
@differential
def test_kill(side: Side, busybox_archive: Path, runtime: str, name: str) -> None:
    # With a handler of its own for TERM and USR1, since the first process of a pid namespace ignores them otherwise.
    script = "trap 'exit 11' TERM; trap 'exit 12' USR1; touch /ready; while :; do sleep 0.05; done"
    box = started(side, busybox_archive, runtime, "sh", "-c", script)
    side.until(
        lambda: (
            side.daemon.ctr(
                "tasks", "exec", "--exec-id", "look", box, "test", "-e", "/ready", namespace=side.namespace
            ).code
            == 0
        ),
        "not ready",
    )
    side.ctr("tasks", "kill", "--signal", name, box)
    if name not in ("nonsense", "99", "0"):
        side.wait_for(box, "STOPPED")
        side.ctr("tasks", "kill", "--signal", name, box)
        side.ctr("tasks", "rm", box)
    side.ctr("tasks", "ls")


@both_runtimes
@differential
def test_kill_all(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    side.until(lambda: len(side.quietly("tasks", "ps", box).text.splitlines()) == 4, "three processes")
    side.ctr("tasks", "kill", "--all", "--signal", "KILL", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "kill", box)
    side.ctr("tasks", "kill", "absent")
    side.ctr("tasks", "kill")


@both_runtimes
@differential
def test_pause_and_resume(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    side.ctr("tasks", "resume", box)
    side.ctr("tasks", "pause", box)
    side.ctr("tasks", "ls")
    side.ctr("tasks", "pause", box)
    side.ctr("tasks", "exec", "--exec-id", "e1", box, "true")
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "resume", box)
    side.ctr("tasks", "ls")
    side.ctr("tasks", "exec", "--exec-id", "e1", box, "echo", "goes on")
    side.ctr("tasks", "kill", "--signal", "KILL", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "pause", box)
    side.ctr("tasks", "resume", box)
    side.ctr("tasks", "exec", "--exec-id", "e1", box, "true")
    side.ctr("tasks", "ps", box)
    for verb in ("pause", "resume"):
        side.ctr("tasks", verb, "absent")
        side.ctr("tasks", verb)


@both_runtimes
@differential
def test_metrics(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    flags = ("--runtime", runtime, "--memory-limit", "67108864")
    side.quietly("run", "--detach", "--null-io", *flags, BUSYBOX, box, "sleep", "1000")
    side.ctr("tasks", "metrics", box)
    figures = json.loads(side.quietly("tasks", "metrics", "--format", "json", box).text)
    side.note("hierarchies", sorted(figures))
    side.note("pids", figures["pids"])
    side.note("limit", figures["memory"]["usage"]["limit"])
    side.note("of the limit", figures["memory"]["hierarchical_memory_limit"])
    side.note("of cpu", sorted(figures["cpu"]))
    side.ctr("tasks", "metrics", "absent")
    side.ctr("tasks", "metrics")
    side.quietly("tasks", "kill", "--signal", "KILL", box)
    side.wait_for(box, "STOPPED")
    side.quietly("tasks", "rm", box)
    side.ctr("tasks", "metrics", box)


@both_runtimes
@differential
def test_remove(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "rm", "--force", box)
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "rm", "--force", box)
    side.ctr("tasks", "rm")
    side.ctr("containers", "ls")


@both_runtimes
@differential
def test_start_again(side: Side, busybox_archive: Path, runtime: str) -> None:
    """A container may have one task after the other, and the snapshot keeps what the first one wrote."""
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    side.quietly("containers", "create", "--runtime", runtime, BUSYBOX, box, "count-runs")
    for _ in range(2):
        side.ctr("tasks", "start", box)
        side.ctr("tasks", "rm", box)
    side.ctr("tasks", "start", "--null-io", "--detach", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "start", box)
    side.ctr("tasks", "rm", box)


@both_runtimes
@differential
def test_background_processes_end_with_the_container(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime, "sh", "-c", "(while :; do sleep 1; done) & exit 2")
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "ps", box)
    side.ctr("tasks", "rm", box)


@differential
def test_checkpoint_errors(side: Side) -> None:
    side.ctr("tasks", "checkpoint", "absent")
    side.ctr("tasks", "checkpoint")


@pytest.mark.parametrize("end", ["stop", "kill"])
@both_runtimes
@differential
def test_restart_of_the_daemon(side: Side, busybox_archive: Path, runtime: str, end: str) -> None:
    """Containers outlive it, and it finds them again: those that run, those that are paused, those that have ended."""
    side.quietly("images", "import", busybox_archive)
    script = "trap 'exit 11' TERM; trap 'exit 12' USR1; sleep 1000 & touch /ready; wait"
    box, ended, paused = (side.id(label) for label in ("box", "ended", "paused"))
    for id in (box, ended, paused):
        side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, id, "sh", "-c", script)
        side.until(partial(_is_ready, side, id), "not ready")
    side.quietly("tasks", "pause", paused)
    side.quietly("tasks", "exec", "--detach", "--exec-id", "e1", box, "sleep", "1000")
    pid = side.pid(ended)
    getattr(side.daemon, end)()
    os.kill(pid, signal.SIGUSR1)
    side.until(lambda: not alive(pid), "it goes on")
    side.daemon.start()
    side.ctr("tasks", "ls")
    side.ctr("tasks", "rm", ended)
    side.ctr("tasks", "ps", box)
    side.ctr("tasks", "exec", "--exec-id", "e2", box, "sh", "-c", "echo still here; exit 3")
    side.ctr("tasks", "kill", "--exec-id", "e1", "--signal", "KILL", box)
    side.note("figures", sorted(json.loads(side.quietly("tasks", "metrics", "--format", "json", box).text)))
    side.ctr("tasks", "pause", box)
    side.ctr("tasks", "resume", box)
    side.ctr("tasks", "kill", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "resume", paused)
    side.ctr("tasks", "kill", "--signal", "USR1", paused)
    side.wait_for(paused, "STOPPED")
    side.ctr("tasks", "rm", paused)
    side.ctr("tasks", "start", "--null-io", "--detach", box)
    side.ctr("tasks", "ls")


def _is_ready(side: Side, id: str) -> bool:
    look = ("tasks", "exec", "--exec-id", "look", id, "test", "-e", "/ready")
    return side.daemon.ctr(*look, namespace=side.namespace).code == 0


@both_runtimes
@differential
def test_checkpoint_where_criu_cannot_work(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = started(side, busybox_archive, runtime)
    failed = side.daemon.ctr(
        "tasks", "checkpoint", "--image-path", side.directory / "image", box, namespace=side.namespace
    )
    side.note("status", failed.code)
    # The built-in runtime is no program: it has no exit status to tell of.
    reason = failed.error_text.partition(" path=")[0]
    side.note("reason", reason.replace("runc did not terminate successfully: exit status 1: ", ""))
    side.ctr("tasks", "ls")
    side.ctr("tasks", "exec", "--exec-id", "e1", box, "echo", "unharmed")

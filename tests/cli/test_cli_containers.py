"""wherry ps, kill, rm, container and task."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from tests.cli.commands import Wherry

Start = Callable[..., str]


@pytest.fixture
def start(busybox: Wherry) -> Start:
    """Start a container that waits, and return its name."""

    def start(*command: str, flags: tuple[str, ...] = ()) -> str:
        name = busybox.daemon.id()
        busybox("run", "-d", "--name", name, *flags, "busybox", *(command or ("sleep", "1000")))
        return name

    return start


def until(wherry: Wherry, name: str, state: str) -> None:
    """Wait for a container to be in a state."""
    deadline = time.monotonic() + 30
    while [each["status"] for each in wherry.json("ps", "-a", "--json") if each["id"] == name] != [state]:
        assert time.monotonic() < deadline, wherry("ps", "-a")
        time.sleep(0.02)


def test_ps(busybox: Wherry, start: Start) -> None:
    assert busybox("ps", "-a").split() == ["CONTAINER", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID"]
    assert busybox.json("ps", "-a", "--json") == []
    running = start("sh", "-c", "sleep 1000; true; true; true; true; true", flags=("--label", "a=b"))
    ended = start("sh", "-c", "exit 3")
    until(busybox, ended, "stopped")
    (shown,) = busybox("ps").splitlines()[1:]
    assert shown.split()[:2] == [running, "busybox"]
    assert "sh -c sleep 1000; true; true; t…" in shown
    assert " running " in shown
    assert os.path.exists(f"/proc/{shown.split()[-1]}")
    assert busybox("ps", "-q").split() == [running]
    assert busybox("ps", "-aq").split() == [ended, running]
    assert " exited 3, " in busybox("ps", "-a").splitlines()[1]
    of_ended, of_running = busybox.json("ps", "-a", "--json")
    assert (of_ended["status"], of_ended["exit_status"], of_ended["pid"]) == ("stopped", 3, None)
    assert of_ended["exited_at"].endswith("Z")
    assert (of_running["status"], of_running["exit_status"], of_running["exited_at"]) == ("running", None, None)
    assert of_running["labels"] == {"a": "b"}
    assert of_running["command"] == ["sh", "-c", "sleep 1000; true; true; true; true; true"]
    busybox("task", "rm", ended)
    assert " no task" in busybox("ps", "-a").splitlines()[1]


@pytest.mark.parametrize("signal", ["9", "KILL", "SIGKILL", "sigkill"])
def test_kill(signal: str, busybox: Wherry, start: Start) -> None:
    name = start()
    assert busybox("kill", "-s", signal, name) == ""
    until(busybox, name, "stopped")
    assert busybox.json("ps", "-a", "--json")[0]["exit_status"] == 137
    assert "process already finished" in busybox.fails("kill", name) or "not found" in busybox.fails("kill", name)
    assert 'container "absent" in namespace' in busybox.fails("kill", "absent")
    assert busybox.fails("kill", "-s", "NONE", name).startswith('signal "NONE": neither a name')


def test_kill_sends_what_the_image_stops_at(busybox: Wherry, start: Start) -> None:
    script = "trap 'exit 42' USR1; trap 'exit 43' TERM; while :; do sleep 0.05; done"
    flags = ("--label", "io.containerd.image.config.stop-signal=SIGUSR1")
    told, untold = start("sh", "-c", script, flags=flags), start("sh", "-c", script)
    time.sleep(0.5)  # until the traps are set: nothing else tells
    busybox("kill", told, untold)
    for name, status in ((told, 42), (untold, 43)):
        until(busybox, name, "stopped")
        assert [each["exit_status"] for each in busybox.json("ps", "-a", "--json") if each["id"] == name] == [status]


def test_rm(busybox: Wherry, start: Start) -> None:
    running, ended = start(), start("true")
    until(busybox, ended, "stopped")
    result = busybox.run("rm", running, ended, "absent")
    assert (result.code, result.text) == (1, f"{ended}\n")
    complaints = result.error_text.splitlines()
    assert complaints[0].startswith(
        f'wherry: container "{running}" is running: kill it first, or remove it with --force'
    )
    assert complaints[1].startswith('wherry: container "absent"')
    assert busybox("rm", "-f", running) == f"{running}\n"
    assert busybox("ps", "-aq") == ""
    assert busybox("snapshot", "ls", "-q", "kind==active") == ""


def test_a_paused_container_is_removed_by_force(busybox: Wherry, start: Start) -> None:
    name = start()
    assert busybox("task", "pause", name) == ""
    until(busybox, name, "paused")
    assert "is paused" in busybox.fails("rm", name)
    assert busybox("rm", "--force", name) == f"{name}\n"


def test_pause_and_resume(busybox: Wherry, start: Start) -> None:
    name = start()
    busybox("task", "pause", name)
    assert busybox("task", "ls").splitlines()[1].split()[2] == "paused"
    busybox("task", "resume", name)
    assert busybox("task", "ls").splitlines()[1].split()[2] == "running"
    assert "cannot resume a running" in busybox.fails("task", "resume", name)


def test_container(busybox: Wherry, start: Start) -> None:
    name = start(flags=("--label", "a.b/c=d"))
    assert busybox("container", "ls").splitlines()[1].split()[:3] == [name, "busybox", "io.containerd.runc.v2"]
    assert busybox("container", "ls", "-q", 'labels."a.b/c"==d').split() == [name]
    assert busybox("container", "ls", "-q", 'labels."a.b/c"==e').split() == []
    (listed,) = busybox.json("container", "ls", "--json")
    (inspected,) = busybox.json("container", "inspect", name)
    assert listed == inspected
    assert inspected["spec"]["value"]["process"]["args"] == ["sleep", "1000"]
    assert inspected["spec"]["type"] == "types.containerd.io/opencontainers/runtime-spec/1/Spec"
    assert inspected["snapshot_key"] == name
    assert busybox("container", "rm", "-f", name) == f"{name}\n"
    assert busybox.run("container", "inspect", name).code == 1


def test_task_start_runs_a_container_again(busybox: Wherry, start: Start) -> None:
    name = start("sh", "-c", "echo out; echo error >&2; echo run >>/runs; exit $(wc -l </runs)")
    until(busybox, name, "stopped")
    result = busybox.run("task", "start", name)
    assert (result.code, result.text, result.error_text) == (2, "out\n", "error\n")
    assert busybox("ps", "-a").splitlines()[1].split()[-3:] == ["no", "task", "-"]
    assert busybox("task", "start", "-d", name) == ""
    until(busybox, name, "stopped")
    assert busybox.json("ps", "-a", "--json")[0]["exit_status"] == 3
    assert 'container "absent"' in busybox.fails("task", "start", "absent")


def test_task_start_connects_standard_input(busybox: Wherry, start: Start) -> None:
    name = start("cat")
    until(busybox, name, "stopped")
    assert busybox("task", "start", "-i", name, input=b"through\n") == "through\n"
    running = start()
    assert "is running: already exists" in busybox.fails("task", "start", running)


def test_task_exec_and_ps(busybox: Wherry, start: Start) -> None:
    name = start()
    assert busybox("task", "exec", name, "echo", "hello") == "hello\n"
    assert busybox.run("task", "exec", name, "sh", "-c", "exit 7").code == 7
    busybox("task", "exec", "-d", name, "sleep", "999")
    processes = busybox.json("task", "ps", "--json", name)
    assert [process["command"] for process in processes] == [["sleep", "1000"], ["sleep", "999"]]
    assert processes[0]["exec_id"] == ""
    assert processes[1]["exec_id"] != ""
    assert busybox("task", "ps", "-q", name).split() == [str(process["pid"]) for process in processes]
    heading, *rows = busybox("task", "ps", name).splitlines()
    assert heading.split() == ["PID", "EXEC", "COMMAND"]
    assert rows[0].split() == [str(processes[0]["pid"]), "-", "sleep", "1000"]
    busybox("task", "kill", "-s", "KILL", "--exec-id", processes[1]["exec_id"], name)


def test_task_rm(busybox: Wherry, start: Start) -> None:
    name = start()
    assert f'task "{name}" is running: kill it first' in busybox.fails("task", "rm", name)
    assert busybox("task", "rm", "--force", name) == f"{name}\n"
    assert busybox("task", "ls", "-q") == ""
    assert busybox("container", "ls", "-q") == f"{name}\n"
    assert "not found" in busybox.fails("task", "rm", name)


def test_metrics(busybox: Wherry, start: Start) -> None:
    name = start()
    metrics = busybox.json("task", "metrics", "--json", name)
    assert metrics["id"] == name
    assert metrics["data"]["type"] in ("io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics")
    assert metrics["data"]["value"]["pids"]["current"] == 1
    table = dict(line.split()[:2] for line in busybox("task", "metrics", name).splitlines())
    assert table["pids.current"] == "1"
    assert "not found" in busybox.fails("task", "metrics", "absent")

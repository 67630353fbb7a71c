"""run and exec in the foreground: terminals, streams, signals, exit codes, what is handed on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.harness.command import environment
from tests.harness.terminal import Terminal
from tests.runc.command.runtime import Runtime

_TRAP = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.05; done"


@pytest.fixture(params=["ours", "runc"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each of both: what is expected of ours is what runc does."""
    runtime: Runtime = request.getfixturevalue(request.param)
    return runtime


@contextlib.contextmanager
def _holding(runtime: Runtime) -> Iterator[str]:
    id = runtime.configure("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", runtime.bundle, id).check()
    yield id
    runtime("delete", "--force", id).check()


def test_run_on_a_terminal(runtime: Runtime) -> None:
    resized = "until stty size | grep -q '44 88'; do sleep 0.05; done"  # both hand it on at a moment of their own
    script = f"echo there; read line; stty size; echo seen $line; read; {resized}; stty size; exit 9"
    id = runtime.configure("sh", "-c", script, terminal=True)
    with Terminal([*runtime.command, "run", "--bundle", runtime.bundle, id], rows=33, columns=77) as terminal:
        before = terminal.attributes()
        terminal.read_until("there\r\n")  # runc sets the size at some moment after the start
        terminal.enter("words\r")
        terminal.read_until("33 77\r\n")
        terminal.read_until("seen words\r\n")
        terminal.resize(44, 88)
        terminal.enter("\r")
        terminal.read_until("44 88\r\n")
        assert terminal.wait() == 9
        assert terminal.attributes() == before
    assert runtime("list", "-q").text == ""


def test_exec_on_a_terminal(runtime: Runtime) -> None:
    with (
        _holding(runtime) as id,
        Terminal([*runtime.command, "exec", "--tty", id, "sh", "-c", "echo there; sleep 100"]) as terminal,
    ):
        terminal.read_until("there")
        terminal.enter("\x03")  # which is a key, and becomes a signal inside
        assert terminal.wait() == 130


def test_size_from_the_beginning(ours: Runtime) -> None:
    id = ours.configure("stty", "size", terminal=True)
    with Terminal([*ours.command, "run", "--bundle", ours.bundle, id], rows=33, columns=77) as terminal:
        assert (terminal.wait(), terminal.text) == (0, "33 77\r\n")
    with _holding(ours) as id, Terminal([*ours.command, "exec", "--tty", id, "stty", "size"], rows=33) as terminal:
        # A process that is quicker than its terminal's set-up has a line end made of each of the two terminals.
        assert (terminal.wait(), terminal.text.replace("\r\r", "\r")) == (0, "33 80\r\n")


def test_streams(runtime: Runtime) -> None:
    id = runtime.configure("sh", "-c", "cat; echo problem >&2; exit 3")
    data = os.urandom(300_000)
    result = runtime("run", "--bundle", runtime.bundle, id, input=data)
    assert (result.code, result.output, result.errors) == (3, data, b"problem\n")


def test_streams_of_exec(runtime: Runtime) -> None:
    with _holding(runtime) as id:
        data = os.urandom(300_000)
        result = runtime("exec", id, "sh", "-c", "cat; echo problem >&2; exit 3", input=data)
        assert (result.code, result.output, result.errors) == (3, data, b"problem\n")
        # The program may end while there is still something to come.
        assert runtime("exec", id, "true", input=data).check().output == b""


def test_callers_files_stay_outside(runtime: Runtime) -> None:
    """A terminal of the host's would let the container type into it."""
    id = runtime.configure("sh", "-c", "ls -l /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2")
    with Terminal([*runtime.command, "run", "--bundle", runtime.bundle, id]) as terminal:
        assert terminal.wait() == 0
        assert terminal.text.count("pipe:[") == 3


def test_output_to_a_file_that_is_appended_to(runtime: Runtime) -> None:
    id = runtime.configure("sh", "-c", "echo one; echo two")
    path = runtime.directory / "appended"
    path.write_text("zero\n")
    with open(path, "ab") as file:
        subprocess.run(
            [*runtime.command, "run", "--bundle", runtime.bundle, id],
            check=True, stdin=subprocess.DEVNULL, stdout=file, timeout=20,
        )  # fmt: skip
    assert path.read_text() == "zero\none\ntwo\n"
    assert path.stat().st_uid == 0


@pytest.mark.parametrize("how", ["run", "exec"])
def test_signals(runtime: Runtime, how: str) -> None:
    with contextlib.ExitStack() as stack:
        if how == "run":
            id = runtime.configure("sh", "-c", _TRAP)
            words = ["run", "--bundle", str(runtime.bundle), id]
        else:
            words = ["exec", stack.enter_context(_holding(runtime)), "sh", "-c", _TRAP]
        process = subprocess.Popen(
            [*runtime.command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment()
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGUSR1)
            output, _ = process.communicate(timeout=20)
            assert (output, process.returncode) == (b"got it\n", 5)
        finally:
            process.kill()
            process.wait()


def test_killed(runtime: Runtime) -> None:
    id = runtime.configure("sh", "-c", "echo $$; sleep 1000")
    process = subprocess.Popen(
        [*runtime.command, "run", "--bundle", str(runtime.bundle), id],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        runtime("kill", id, "9").check()
        assert process.wait(20) == 137
    finally:
        process.kill()
        process.communicate()
    assert runtime("list", "-q").text == ""


def test_keep_and_pid_file(runtime: Runtime) -> None:
    id = runtime.configure("true")
    pid = runtime.directory / "pid"
    runtime("run", "--keep", "--pid-file", pid, "--bundle", runtime.bundle, id).check()
    assert pid.read_text().isdigit()
    assert json.loads(runtime("state", id).check().text)["status"] == "stopped"
    runtime("delete", id).check()


def test_exec_detached_with_a_pid_file(runtime: Runtime) -> None:
    with _holding(runtime) as id:
        pid = runtime.directory / "pid"
        runtime.detached("exec", "--detach", "--pid-file", pid, id, "sleep", "1000").check()
        pids = json.loads(runtime("ps", "--format", "json", id).check().text)
        assert int(pid.read_text()) in pids
        assert len(pids) == 2


def test_descriptors(runtime: Runtime) -> None:
    """systemd's sockets come first, then so many more, then nothing."""
    id = runtime.configure(
        "sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3 <&4; cat <&3; cat <&4; cat <&5 || echo closed"
    )
    files = []
    for name in ("a", "b", "c"):
        (runtime.directory / name).write_text(f"{name}\n")
        files.append(str(runtime.directory / name))
    words = " ".join([*runtime.command, "run", "--preserve-fds", "1", "--bundle", str(runtime.bundle), id])
    script = f"exec 3<{files[0]} 4<{files[1]} 5<{files[2]}; LISTEN_PID=$$ LISTEN_FDS=1 exec {words}"
    result = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True, timeout=20)
    lines = result.stdout.splitlines()
    assert lines[0] == "1 1"
    assert sorted(lines[1:3]) == ["a", "b"]
    assert lines[3:] == ["closed"]


def test_events_end_with_the_container(runtime: Runtime) -> None:
    with _holding(runtime) as id:
        process = subprocess.Popen(
            [*runtime.command, "events", "--interval", "100ms", id], stdout=subprocess.PIPE, env=environment()
        )
        try:
            assert process.stdout is not None
            for _ in range(2):
                event = json.loads(process.stdout.readline())
                assert (event["type"], event["id"]) == ("stats", id)
            runtime("delete", "--force", id).check()
            process.communicate(timeout=20)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()

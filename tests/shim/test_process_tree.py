"""The shim as a process: one thread, one reaper, nothing imported late, little memory."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.harness.command import environment
from tests.shim.lab import Lab, eventually
from tests.shim.peers import Ours, OursV1

_SHIM = Path(__file__).parents[2] / "src/wherry/shim"

#: What would wait for children beside the reaper, or start a thread.
_FORBIDDEN = {"subprocess", "multiprocessing", "threading", "concurrent.futures", "_thread"}
_FORBIDDEN_CALLS = {
    "create_subprocess_exec",
    "create_subprocess_shell",
    "to_thread",
    "run_in_executor",
    "wait3",
    "wait4",
    "system",
    "popen",
    "Popen",
}

#: The commands around the shim, which are processes of their own: they have no reaper.
_COMMANDS = {"delete.py", "info.py", "start.py"}


@pytest.mark.parametrize("path", sorted(_SHIM.glob("*.py")), ids=lambda path: path.name)
def test_nothing_else_waits_for_children(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & _FORBIDDEN
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in _FORBIDDEN
        elif isinstance(node, ast.Attribute):
            assert node.attr not in _FORBIDDEN_CALLS
            if node.attr == "waitpid":
                assert path.name in {"reaper.py", *_COMMANDS}


async def test_one_thread(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    await container.exec("e", "true")
    await container.start("e")
    await container.wait("e")
    assert container.shim.threads() == 1
    await container.stop()
    await container.end_shim()


@pytest.mark.parametrize("kind", [Ours, OursV1])
async def test_signals_that_are_for_the_daemon(lab: Lab, kind: type[Ours]) -> None:
    container = await lab.shim(kind, "sh", "-c", "trap 'exit 8' TERM; sleep 1000 & wait")
    await container.create()
    await container.start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGHUP):
        os.kill(container.shim.pid, number)
    assert (await container.state()).status == 2
    # And the container has them as it should: Python ignores some, which a program would inherit.
    await container.exec("e", "sleep", "1000")
    status = Path(f"/proc/{await container.start('e')}/status").read_text()
    signals = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    # posix_spawn leaves a signal that belongs to glibc, number 32, ignored.
    assert int(signals["SigIgn"], 16) & ~(1 << 31) == 0
    assert int(signals["SigBlk"], 16) == 0
    await container.kill(15)
    assert (await container.wait()).exit_status == 8
    await container.delete()
    await container.end_shim()


async def test_no_descriptor_is_passed_on(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    out = container.fifo("out")
    held = os.open(out, os.O_RDWR | os.O_NONBLOCK)
    await container.create(stdout=out, stderr=out)
    await container.start()
    await container.exec("e", "sleep", "1000", stdout=out, stderr=out)
    await container.start("e")
    for exec_id in ("", "e"):
        pid = (await container.state(exec_id)).pid
        # runc's own process becomes the container's a moment after `runc start`.
        command = Path(f"/proc/{pid}/cmdline")
        await eventually(partial(_starts_with, command, b"sleep"))
        assert set(os.listdir(f"/proc/{pid}/fd")) == {"0", "1", "2"}
    await container.stop()
    os.close(held)
    await container.end_shim()


def _starts_with(path: Path, data: bytes) -> bool:
    return path.read_bytes().startswith(data)


async def test_orphans_are_reaped(lab: Lab) -> None:
    """Processes whose parents end become the shim's own when the container has no pid namespace."""
    script = "for i in $(seq 300); do (true & true &) ; done; exec sleep 1000"
    container = await lab.shim(Ours, "sh", "-c", script, own_pids=False)
    await container.create()
    pid = await container.start()
    await eventually(partial(_starts_with, Path(f"/proc/{pid}/cmdline"), b"sleep"))

    def zombies() -> int:
        children = Path(f"/proc/{container.shim.pid}/task/{container.shim.pid}/children").read_text().split()
        return len(children)

    await eventually(lambda: zombies() == 1)
    await container.stop()
    await container.end_shim()


async def test_notify_socket_is_not_the_runtimes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # runc would mount it into the container and wait for a word on it.
    monkeypatch.setenv("NOTIFY_SOCKET", f"{lab.directory}/notify")
    container = await lab.shim(Ours, "sh", "-c", 'test -z "$NOTIFY_SOCKET"')
    assert await container.run_to_end() == 0
    await container.end_shim()


def test_memory() -> None:
    """A shim by itself, private memory and page tables: at most 16 MB; forked ones share most of it."""
    program = """
import sys
from wherry.protobuf import import_only_the_core
from wherry.startup import forgo_tls
import_only_the_core(); forgo_tls()
import wherry.shim.server
print("ready", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        figures = dict(
            line.split(":", 1) for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        )
        private = sum(int(figures[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
        tables = int(Path(f"/proc/{process.pid}/status").read_text().split("VmPTE:")[1].split()[0])
        assert private + tables < 16 << 10
    finally:
        process.communicate()
    assert process.returncode == 0


async def test_it_ends_by_itself_only_when_asked(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    await container.shim.call("connect", id="x")
    await lab.sink.stop()
    time.sleep(0.2)
    assert container.shim.threads() == 1
    await container.end_shim()
    assert isinstance(container.shim, Ours)
    assert await container.shim.ended() == 0
    assert "level=error" not in container.shim.log.read_text()
    assert "Traceback" not in container.shim.log.read_text()

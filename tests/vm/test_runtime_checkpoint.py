"""checkpoint and restore of wherry-runc's own, with CRIU: as with runc, which it is compared to."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.command import environment
from tests.harness.daemon import COMMANDS
from tests.harness.terminal import Terminal
from tests.runc.command.runtime import Runtime

pytestmark = pytest.mark.vm

_NO_STREAMS = "exec </dev/null >/dev/null 2>&1; "
_COUNT = "i=0; while :; do i=$((i+1)); echo $i >/tmp/count; sleep 0.1; done"


@pytest.fixture(params=["wherry-runc", pytest.param("runc", marks=pytest.mark.long)])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    program = str(COMMANDS / request.param) if request.param == "wherry-runc" else request.param
    runtime = Runtime(program, tmp_path)
    yield runtime
    runtime.close()


def _begin(runtime: Runtime, script: str) -> str:
    id = runtime.configure("sh", "-c", script)
    config = runtime.bundle / "config.json"
    document = json.loads(config.read_text())
    document["root"]["readonly"] = False
    config.write_text(json.dumps(document))
    (runtime.bundle / "rootfs/tmp").mkdir(exist_ok=True)
    return id


def _count(runtime: Runtime, after: int = 0) -> int:
    """Wait until it has counted on, and return how far."""
    deadline = time.monotonic() + 30
    path = runtime.bundle / "rootfs/tmp/count"
    while True:
        text = path.read_text() if path.exists() else ""
        if text.strip().isdigit() and int(text) > after:
            return int(text)
        assert time.monotonic() < deadline, "it does not count on"
        time.sleep(0.05)


def _images(runtime: Runtime, name: str = "images") -> list[str]:
    return ["--image-path", str(runtime.directory / name), "--work-path", str(runtime.directory / "work")]


def test_goes_on_elsewhere(runtime: Runtime) -> None:
    first = _begin(runtime, _NO_STREAMS + _COUNT)
    runtime.detached("run", "--detach", "--bundle", runtime.bundle, first).check()
    _count(runtime, 3)
    runtime("checkpoint", "--leave-running", *_images(runtime, "unused"), first).check()
    reached = _count(runtime, _count(runtime))
    runtime("checkpoint", *_images(runtime), first).check()
    assert runtime("list", "-q").text == ""

    pid = runtime.directory / "pid"
    restored = runtime.id()
    where = ["--bundle", str(runtime.bundle), *_images(runtime)]
    runtime.detached("restore", "--detach", *where, "--pid-file", pid, restored).check()
    # It goes on from where it was: a new one would begin with 1.
    _count(runtime, reached)
    state = json.loads(runtime("state", restored).check().text)
    assert (state["status"], state["pid"]) == ("running", int(pid.read_text()))
    assert int(pid.read_text()) in json.loads(runtime("ps", "--format", "json", restored).check().text)
    assert runtime("exec", restored, "id", "-u").check().text == "0\n"
    runtime("pause", restored).check()
    runtime("resume", restored).check()
    runtime("kill", restored, "KILL").check()
    runtime.wait_for(restored, "stopped")
    runtime("delete", restored).check()


@pytest.mark.long
def test_streams(runtime: Runtime) -> None:
    """Pipes of the first are replaced by those of the second."""
    first = _begin(runtime, "echo ready; read word; echo got $word; exit 4")
    process = subprocess.Popen(
        [*runtime.command, "run", "--bundle", str(runtime.bundle), first],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        runtime("checkpoint", *_images(runtime), first).check()
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    restored = runtime("restore", "--bundle", runtime.bundle, *_images(runtime), runtime.id(), input=b"something\n")
    assert (restored.code, restored.text) == (4, "got something\n")
    assert runtime("list", "-q").text == ""


@pytest.mark.long
def test_terminal(runtime: Runtime) -> None:
    first = _begin(runtime, "echo ready; read word; echo got $word; exit 4")
    config = runtime.bundle / "config.json"
    document = json.loads(config.read_text())
    document["process"]["terminal"] = True
    config.write_text(json.dumps(document))
    with Terminal([*runtime.command, "run", "--bundle", runtime.bundle, first]) as terminal:
        terminal.read_until("ready\r\n")
        runtime("checkpoint", "--shell-job", *_images(runtime), first).check()
        terminal.wait()
    where = ["--bundle", str(runtime.bundle), *_images(runtime)]
    with Terminal([*runtime.command, "restore", "--shell-job", *where, runtime.id()]) as terminal:
        terminal.enter("something\r")
        terminal.read_until("got something\r\n")
        assert terminal.wait() == 4


@pytest.mark.long
def test_refusals(runtime: Runtime) -> None:
    id = _begin(runtime, "exec 3>/tmp/big; " + _NO_STREAMS + "sleep 1000")
    runtime.detached("create", "--bundle", runtime.bundle, id).check()
    created = runtime("checkpoint", *_images(runtime), id)
    assert (created.code, "Container cannot be checkpointed in created state" in created.error_text) == (1, True)
    runtime("start", id).check()
    for words in (["--manage-cgroups-mode", "x"], ["--empty-ns", "x"], ["--page-server", "x"], ["--parent-path", "/"]):
        assert runtime("checkpoint", *words, *_images(runtime), id).code == 1
    assert runtime("restore", "--bundle", runtime.bundle, *_images(runtime, "none"), runtime.id()).code == 1
    assert runtime("list", "-q").text == f"{id}\n"

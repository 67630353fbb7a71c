"""Shims that do not answer: their containers stay as they are, and nobody else waits for them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.command import Result
from tests.harness.daemon import Wherryd
from tests.runtime.test_survival import STOCK, tasks, until

STOPPED, OTHERS = 10, 30


@pytest.fixture(params=["ours", "stock"])
def daemon(request: pytest.FixtureRequest, start_daemon: StartDaemon) -> Wherryd:
    return start_daemon(Wherryd(config=STOCK if request.param == "stock" else ""))


@pytest.fixture
def frozen(daemon: Wherryd, busybox_archive: Path) -> Iterator[tuple[str, list[str], list[int]]]:
    """A namespace with containers whose shims are stopped; their ids, and the shims' pids."""
    namespace = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    boxes = [daemon.id() for _ in range(STOPPED)]
    for box in boxes:
        daemon.ctr("run", "--detach", "--null-io", BUSYBOX, box, "sleep", "1000", namespace=namespace).check()
    shims = [int(line.split()[0]) for line in leaks.processes(namespace) if " -id " in line]
    assert len(shims) == STOPPED
    # The kernel hangs up a stopped group without a parent when a member ends, and a Go shim dies of that: their runcs
    # have time to.
    time.sleep(1)
    for pid in shims:
        os.kill(pid, signal.SIGSTOP)
    yield namespace, boxes, shims
    for pid in shims:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue  # the test ended it


def memory(pid: int) -> int:
    """Return a process's resident set in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def test_others_come_and_go(daemon: Wherryd, frozen: tuple[str, list[str], list[int]]) -> None:
    namespace, boxes, shims = frozen
    before = memory(daemon.pid)

    def run(number: int) -> Result:
        return daemon.ctr(
            "run", "--rm", BUSYBOX, f"{boxes[0]}-{number}", "sh", "-c", f"echo {number}; exit 3", namespace=namespace
        )

    with ThreadPoolExecutor(8) as threads:
        # Calls to the stopped ones hang, each for itself.
        hanging = [
            threads.submit(daemon.ctr, "tasks", "kill", boxes[1], namespace=namespace, timeout=60) for _ in range(4)
        ]
        ran = list(threads.map(run, range(OTHERS)))
        assert [(each.code, each.text) for each in ran] == [(3, f"{number}\n") for number in range(OTHERS)]
        listed = tasks(daemon, namespace)
        assert {status for _pid, status in listed.values()} == {"UNKNOWN"} and set(listed) == set(boxes)
        assert memory(daemon.pid) < before + 30_000
        for pid in shims:
            os.kill(pid, signal.SIGCONT)
        for call in hanging:
            call.result(60)
    until(lambda: {status for _pid, status in tasks(daemon, namespace).values()} == {"RUNNING"}, "back")
    for box in boxes:
        daemon.ctr("tasks", "rm", "--force", box, namespace=namespace).check()
        daemon.ctr("containers", "rm", box, namespace=namespace).check()


def test_a_stopped_shim_whose_client_has_gone(daemon: Wherryd, frozen: tuple[str, list[str], list[int]]) -> None:
    """The deadline of the client's own call, if it has one, is what it waits for."""
    namespace, boxes, _shims = frozen
    late = daemon.ctr("--timeout", "1s", "tasks", "pause", boxes[0], namespace=namespace)
    assert late.code == 1 and "deadline exceeded" in late.error_text.lower()

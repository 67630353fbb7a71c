"""Shims that let the kernel keep equal pages once, where the operator says so; and nothing else that does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd
from tests.runtime.test_survival import tasks
from wherry.linux import ksm

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def mergeable(pid: int) -> int:
    """Return how many of a process's mappings the kernel may merge: mg among the flags of proc(5)'s smaps."""
    flags = [line for line in Path(f"/proc/{pid}/smaps").read_text().splitlines() if line.startswith("VmFlags:")]
    return sum("mg" in line.split() for line in flags)


@pytest.mark.parametrize("wanted", [True, False])
def test_only_shims_take_part_and_only_if_told(start_daemon: StartDaemon, busybox_archive: Path, wanted: bool) -> None:
    if not ksm.switch():
        pytest.skip("needs a kernel with KSM")
    daemon = start_daemon(Wherryd(config=f"ksm = {str(wanted).lower()}"))
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    daemon.ctr("run", "--detach", "--null-io", BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
    (shim,) = (int(line.split()[0]) for line in leaks.processes(namespace) if " -id " in line)
    assert (mergeable(shim) > 3) is wanted
    assert not mergeable(tasks(daemon, namespace)[id][0])
    assert not mergeable(daemon.pid)
    warned = "ksm: the kernel merges nothing" in daemon.log.read_text()
    assert warned is (wanted and ksm.switch() != "1")

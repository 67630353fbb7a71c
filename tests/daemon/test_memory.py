"""What wherryd takes when it has nothing to do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness.daemon import Wherryd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

#: KiB that Debian's containerd holds at rest (Pss), on the machine on which the goal was set.
CONTAINERD = 56_000

#: KiB that the shim which is kept ready may take beyond that.
SHIM = 16_000


class Confined(Wherryd):
    """In a pid namespace of its own, so that every process it makes can be told, whoever its parent is by now."""

    def command(self) -> list[str]:
        return ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *super().command()]

    def daemon_pid(self) -> int:
        """Return the pid of wherryd itself."""
        (first,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(first)

    def stop(self) -> int:
        """End the daemon: unshare, which waits for it, takes no signals."""
        os.kill(self.daemon_pid(), signal.SIGTERM)
        return super().stop()

    def processes(self) -> list[int]:
        """Return the pids of the daemon and of all that it made."""
        inside = os.stat(f"/proc/{self.daemon_pid()}/ns/pid").st_ino
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.stat(entry / "ns/pid").st_ino == inside:
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended
        return found


def pss(pid: int) -> int:
    """Return a process's proportional share of memory in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


def test_wherryd_with_its_zygote_holds_less_than_containerd(start_daemon: StartDaemon) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    daemon = start_daemon(Confined())
    subprocess.run(["ctr", "--address", daemon.address, "plugins", "ls"], check=True, capture_output=True)
    processes = daemon.processes()
    held = {pid: pss(pid) for pid in processes}
    children = Path(f"/proc/{daemon.daemon_pid()}/task/{daemon.daemon_pid()}/children").read_text().split()
    # The zygote is the first; others are shims that wait for their containers, and whose parent is init.
    at_rest = sum(held[pid] for pid in (daemon.daemon_pid(), min(map(int, children))))
    assert at_rest < CONTAINERD, held
    assert sum(held.values()) - at_rest < SHIM, held

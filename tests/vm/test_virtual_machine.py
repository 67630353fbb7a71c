"""What the machine that runs the tests may not have: a kernel with cgroup v2 alone, with AppArmor, and for CRIU.

One test boots such a machine and runs chosen tests inside, those of this room and a few that hold everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.command import environment

_TREE = Path(__file__).resolve().parent.parent.parent

#: Seconds for all of it: three minutes on two idle cores.
_TIMEOUT = 1500

#: Of other rooms: what is different under cgroup v2, or needs a capability that a container's root does not have.
_CHOSEN = (
    "tests/vm",
    "tests/shim/test_metrics.py::test_figures_until_delete",
    "tests/shim/test_checkpoint.py::test_checkpoint_and_restore",
    "tests/shim/test_place.py::test_oom_score[containerd's own--500]",
    "tests/shim/test_place.py::test_oom_score[wherryd's own--500]",
    "tests/shim/test_place.py::test_shim_cgroup[containerd's own]",
    "tests/shim/test_place.py::test_shim_cgroup[wherryd's own]",
    "tests/shim/test_place.py::test_shim_cgroup_that_is_not_there[wherryd's own]",
)


@pytest.mark.timeout(_TIMEOUT + 60)
@pytest.mark.parametrize("which", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_in_a_virtual_machine(record_property: Callable[[str, object], None], which: str) -> None:
    missing = [name for name in ("qemu-system-x86_64", "cpio", "busybox", "apparmor_parser") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root{' and '.join(['', *missing])}")
    before = _ours()
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    machine = subprocess.Popen(
        [
            *(sys.executable, _TREE / "tools/vm.py", "--timeout", str(_TIMEOUT)),
            *(*tests, "-v", "-m", which, "--timeout", "300", "--durations", "12", *_CHOSEN),
        ],
        cwd=_TREE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output = machine.communicate()[0].decode(errors="replace").replace("\r", "")
    finally:
        machine.send_signal(signal.SIGTERM)  # of a test that was stopped: it takes its machine with it
        machine.wait()
    print(output)
    outcome = re.findall(r"^=+ (.*) in [\d.]+s.*=+$", output, re.MULTILINE)
    assert machine.returncode == 0, f"{machine.returncode}; in the virtual machine: {outcome}"
    # With one left out, what is said to hold there was not looked at.
    assert outcome and re.fullmatch(r"\d+ passed(, \d+ deselected)?", outcome[-1]), outcome
    assert int(outcome[-1].split()[0]) > 0
    record_property("in the virtual machine", outcome[-1])
    assert _ours() == before


def _ours() -> set[str]:
    """Return the temporary folders of tools/vm.py, which leaves none."""
    return {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("wherry-vm-*")}

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
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.harness.command import environment

_TREE = Path(__file__).resolve().parent.parent.parent

#: Seconds for all of it: less than four minutes on two idle cores.
_TIMEOUT = 1500
#: For the built-in runtime's own tests, which are several hundred processes each of which is emulated.
_LONG_TIMEOUT = 7000

#: Of other rooms: what is different under cgroup v2, or needs a capability that a container's root does not have.
_CHOSEN = (
    "tests/vm",
    "tests/shim/test_metrics.py::test_figures_until_delete",
    "tests/shim/test_place.py::test_oom_score[wherryd's own--500]",
    "tests/shim/test_place.py::test_shim_cgroup[wherryd's own]",
    "tests/shim/test_place.py::test_shim_cgroup_that_is_not_there[wherryd's own]",
    "tests/runc/cgroups/test_device_filter.py::test_what_the_kernel_lets_through",
    "tests/runc/cgroups/test_life.py::test_every_hierarchy_has_it_and_the_process",
    "tests/runc/cgroups/test_life.py::test_freeze",
    "tests/runc/cgroups/test_life.py::test_news_of_oom",
)

#: What would take too long in every run: what the built-in runtime does under cgroup v2, on a kernel that is not this
#: machine's, and other daemons and drivers.
_MORE = (
    "tests/shim/test_checkpoint.py::test_checkpoint_and_restore",
    "tests/shim/test_place.py::test_oom_score[containerd's own--500]",
    "tests/shim/test_place.py::test_shim_cgroup[containerd's own]",
    "tests/runc/cgroups",
    *(
        f"tests/runc/differential/test_runtime_against_runc.py::test_case[{case}]"
        for case in ("limits/raised-nproc", "oom-score/-500", "exec-traced/limit-raised")
    ),
    "tests/runc/security",
)


@pytest.mark.timeout(_TIMEOUT + 60)
@pytest.mark.parametrize("which", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_in_a_virtual_machine(record_property: Callable[[str, object], None], which: str) -> None:
    outcome = _run(which, _CHOSEN, _TIMEOUT)
    # With one left out, what is said to hold there was not looked at.
    assert re.fullmatch(r"\d+ passed(, \d+ deselected)?", outcome), outcome
    record_property("in the virtual machine", outcome)


@pytest.mark.long
@pytest.mark.timeout(_LONG_TIMEOUT + 60)
def test_the_runtime_in_a_virtual_machine(record_property: Callable[[str, object], None]) -> None:
    outcome = _run("not long", _MORE, _LONG_TIMEOUT)
    # Of what holds under one version of cgroups the other half is left out.
    assert re.fullmatch(r"\d+ passed(, \d+ (deselected|skipped))*", outcome), outcome
    record_property("in the virtual machine", outcome)


def _run(which: str, tests: Sequence[str], seconds: int) -> str:
    """Run tests in a virtual machine and return what pytest says of them at its end."""
    missing = [name for name in ("qemu-system-x86_64", "cpio", "busybox", "apparmor_parser") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root{' and '.join(['', *missing])}")
    before = _ours()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no"]
    machine = subprocess.Popen(
        [
            *(sys.executable, _TREE / "tools/vm.py", "--timeout", str(seconds)),
            *(*command, "-v", "-m", which, "--timeout", "300", "--durations", "12", *tests),
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
    assert outcome and int(outcome[-1].split()[0]) > 0, outcome
    assert _ours() == before
    return str(outcome[-1])


def _ours() -> set[str]:
    """Return the temporary folders of tools/vm.py, which leaves none."""
    return {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("wherry-vm-*")}

"""The systemd cgroup driver, on a machine whose first process is systemd."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TREE = Path(__file__).resolve().parents[2]
_TIMEOUT = 300


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT + 60)
def test_under_systemd() -> None:
    missing = [name for name in ("qemu-system-x86_64", "cpio", "busybox", "runc") if not shutil.which(name)]
    if missing or os.geteuid() != 0 or not Path("/lib/systemd/systemd").exists():
        pytest.skip(f"needs root, systemd{' and '.join(['', *missing])}")
    machine = [sys.executable, str(_TREE / "tools/vm.py"), "--systemd", "--timeout", str(_TIMEOUT)]
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--color=no", "-v"]
    chosen = ["tests/runc/cgroups/test_systemd.py", "-k", "not without_systemd"]
    done = subprocess.run([*machine, *tests, *chosen], cwd=_TREE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.stdout.decode(errors="replace").replace("\r", "")
    print(output)
    assert done.returncode == 0
    assert " skipped" not in output.splitlines()[-1]

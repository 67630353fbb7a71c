"""What is forgiven an unprivileged user who may write to no cgroup, and what is not: as runc has it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import need_root

_NOBODY = 65534

_PROGRAM = """
import os, sys
os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})
from wherry.errors import Error
from wherry.runc.cgroups.cgroup import load_cgroup, new_cgroup
resources = {resources}
try:
    cgroup = new_cgroup({path!r}, "wherry-rootless", systemd=False, rootless={rootless})
    cgroup.create(resources)
    cgroup.join(os.getpid())
    cgroup.set(resources)
    print("paths", sorted(set(cgroup.paths.values())) if cgroup.version == 1 else "")
    cgroup.delete()
except Error as error:
    print(error.message)
"""


def _tried(path: str, resources: dict[str, object], *, rootless: bool = True) -> str:
    need_root()
    program = _PROGRAM.format(nobody=_NOBODY, path=path, resources=resources, rootless=rootless)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    return done.stdout.strip()


def test_no_path_and_no_limits() -> None:
    assert _tried("", {}) in ("paths []", "paths")


def test_a_path() -> None:
    said = _tried("/wherry-rootless", {})
    assert said.startswith("unable to apply cgroup configuration: mkdir /sys/fs/cgroup/")
    assert said.endswith("/wherry-rootless: permission denied")


@pytest.mark.parametrize("path", ["", "/wherry-rootless"])
def test_not_rootless(path: str) -> None:
    assert "permission denied" in _tried(path, {}, rootless=False)


def test_limits_without_a_path() -> None:
    said = _tried("", {"pids": {"limit": 10}})
    assert said in (
        "error setting cgroup config for procHooks process: "
        "cannot set pids limit: container could not join or create cgroup",
        "unable to apply cgroup configuration: rootless needs no limits + no cgrouppath when no permission is "
        "granted for cgroups: mkdir /sys/fs/cgroup/wherry-rootless: permission denied",
    )

"""How a container's processes get into their cgroups: by themselves, or moved where the kernel refuses that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.runc.command.runtime import Runtime

#: By what stands in the way, what is changed in the runtime.
_OBSTACLES = {
    "nothing": "pass",
    "the kernel refuses to let it in": "Entrance.enter = lambda self: self.tasks.clear() or False",
    "the kernel refuses to have it born there": "Entrance.open = lambda self, path: setattr(self, 'directory', os.open"
    "('/', os.O_RDONLY))",
    "there is no way": "CgroupV1.entrance = CgroupV2.entrance = lambda self: None",
}

_PROGRAM = """#!{python}
import os, sys
from wherry.runc.cgroups.entrance import Entrance
from wherry.runc.cgroups.v1 import CgroupV1
from wherry.runc.cgroups.v2 import CgroupV2
from wherry.runc.command.main import main
{obstacle}
sys.exit(main())
"""


@pytest.mark.parametrize("obstacle", _OBSTACLES)
def test_it_is_in_every_cgroup(ours: Runtime, obstacle: str, tmp_path: Path) -> None:
    id = ours.configure("sh", "-c", "cat /proc/self/cgroup; exec sleep 1000")
    program = tmp_path / "program"
    program.write_text(_PROGRAM.format(python=sys.executable, obstacle=_OBSTACLES[obstacle]))
    program.chmod(0o755)
    runtime = Runtime(str(program), ours.directory)
    assert runtime.detached("create", "--bundle", ours.bundle, id).code == 0
    assert runtime("start", id).code == 0
    execed = runtime("exec", id, "cat", "/proc/self/cgroup")
    assert execed.code == 0
    lines = execed.text.splitlines()
    assert lines
    assert all(line.endswith(f"/{id}") for line in lines)
    assert (ours.directory / "output").read_text().splitlines() == lines
    assert runtime("delete", "--force", id).code == 0

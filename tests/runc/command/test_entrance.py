"""How a container's processes get into their cgroups: by themselves, or moved where the kernel refuses that."""

from __future__ import annotations

import sys

import pytest

from tests.runc.command.runtime import Runtime
from wherry.runc.cgroups.hierarchies import hierarchies

#: By what stands in the way, what is changed in the runtime.
_OBSTACLES = {
    "nothing": "pass",
    "the kernel refuses to let it in": "Entrance.enter = lambda self: self.tasks.clear() or False",
    "the kernel refuses to have it born there": "Entrance.open = lambda self, path: setattr(self, 'directory', os.open"
    "('/', os.O_RDONLY))",
    "there is no way": "CgroupV1.entrance = CgroupV2.entrance = lambda self: None",
}

#: Between the two writes by which the device rules of cgroup v1 begin, nothing is allowed.
_SLOWLY = """
def slowly(self, resources, set=CgroupV1.set):
    with open(f"{self.paths['devices']}/devices.deny", "w") as file:
        file.write("a")
    time.sleep(0.5)
    set(self, resources)
CgroupV1.set = slowly
"""

_PROGRAM = """#!{python}
import os, sys, time
from wherry.runc.cgroups.entrance import Entrance
from wherry.runc.cgroups.v1 import CgroupV1
from wherry.runc.cgroups.v2 import CgroupV2
from wherry.runc.command.main import main
{obstacle}
sys.exit(main())
"""


def _changed(ours: Runtime, obstacle: str) -> Runtime:
    program = ours.directory / "program"
    program.write_text(_PROGRAM.format(python=sys.executable, obstacle=obstacle))
    program.chmod(0o755)
    return Runtime(str(program), ours.directory)


def test_the_process_waits_for_its_device_rules(ours: Runtime) -> None:
    if hierarchies().version != 1:
        pytest.skip("cgroup v2 has its rules at once")
    id = ours.configure("true")
    # Its standard input is a device, which it opens anew.
    result = _changed(ours, _SLOWLY).detached("create", "--bundle", ours.bundle, id)
    assert (result.code, result.errors) == (0, b"")
    assert ours("delete", id).code == 0


@pytest.mark.parametrize("obstacle", _OBSTACLES)
def test_it_is_in_every_cgroup(ours: Runtime, obstacle: str) -> None:
    id = ours.configure("sh", "-c", "cat /proc/self/cgroup; exec sleep 1000")
    runtime = _changed(ours, _OBSTACLES[obstacle])
    assert runtime.detached("create", "--bundle", ours.bundle, id).code == 0
    assert runtime("start", id).code == 0
    execed = runtime("exec", id, "cat", "/proc/self/cgroup")
    assert execed.code == 0
    lines = execed.text.splitlines()
    assert lines
    assert all(line.endswith(f"/{id}") for line in lines)
    assert (ours.directory / "output").read_text().splitlines() == lines
    assert runtime("delete", "--force", id).code == 0

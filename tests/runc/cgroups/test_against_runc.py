"""Cgroups made by us and by Debian's runc for the same resources: every control file says the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.runc.cgroups.conftest import Processes, Runc
from wherry.errors import Error
from wherry.runc.cgroups.cgroup import load_cgroup, new_cgroup
from wherry.runc.cgroups.hierarchies import hierarchies
from wherry.runc.cgroups.members import SETTING

_MIB = 1 << 20

#: What counts and is no limit.
_COUNTERS = (
    "usage",
    "stat",
    "events",
    "pressure",
    ".current",
    ".peak",
    "failcnt",
    "cgroup.procs",
    "cgroup.threads",
    "tasks",
    "io_service",
    "swap.high.tmp",
)

DOCKER: dict[str, Any] = {
    "devices": [
        {"allow": False, "access": "rwm"},
        *(
            {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
            for major, minor in ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
        ),
        {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
    ],
    "memory": {"disableOOMKiller": False},
    "cpu": {"shares": 0},
    "pids": {"limit": 0},
    "blockIO": {"weight": 0},
}

_CASES: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "empty": {},
    "docker": DOCKER,
    "memory": {"memory": {"limit": 64 * _MIB}},
    "memory and swap": {"memory": {"limit": 64 * _MIB, "swap": 96 * _MIB}},
    "no swap": {"memory": {"limit": 64 * _MIB, "swap": 64 * _MIB}},
    "swap without limit": {"memory": {"limit": 64 * _MIB, "swap": -1}},
    "no limit of memory": {"memory": {"limit": -1}},
    "swap below memory": {"memory": {"limit": 64 * _MIB, "swap": 32 * _MIB}},
    "reservation": {"memory": {"limit": 64 * _MIB, "reservation": 32 * _MIB}},
    "kernel memory": {"memory": {"kernel": 64 * _MIB, "kernelTCP": 32 * _MIB, "useHierarchy": True}},
    "shares": {"cpu": {"shares": 512}},
    "few shares": {"cpu": {"shares": 2}},
    "many shares": {"cpu": {"shares": 262144}},
    "quota": {"cpu": {"quota": 50000}},
    "period": {"cpu": {"period": 50000}},
    "quota and period": {"cpu": {"quota": 20000, "period": 50000}},
    "no quota": {"cpu": {"quota": -1, "period": 50000}},
    "bad quota": {"cpu": {"quota": 5, "period": 50000}},
    "cpus": {"cpu": {"cpus": "0", "mems": "0"}},
    "bad cpus": {"cpu": {"cpus": "0-4096"}},
    "pids": {"pids": {"limit": 20}},
    "pids without limit": {"pids": {"limit": -1}},
    "block weight": {"blockIO": {"weight": 200}},
    "devices by wildcard": {"devices": [{"allow": True, "type": "c", "major": 10, "access": "rw"}]},
    "devices in parts": {
        "devices": [
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "r"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "w"},
            {"allow": True, "type": "b", "major": 7, "minor": 0, "access": "rwm"},
            {"allow": False, "type": "b", "major": 7, "minor": 0, "access": "w"},
        ]
    },
    "all devices": {"devices": [{"allow": True, "access": "rwm"}]},
    "all devices but one": {
        "devices": [
            {"allow": True, "type": "a", "access": "rwm"},
            {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]
    },
    "hole in a wildcard": {
        "devices": [
            {"allow": True, "type": "c", "major": 10, "access": "rw"},
            {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]
    },
    "type of a device": {"devices": [{"allow": True, "type": "p", "access": "rw"}]},
}
_V1_CASES: dict[str, dict[str, Any] | None] = {
    "swappiness": {"memory": {"swappiness": 60}},
    "bad swappiness": {"memory": {"swappiness": 101}},
    "OOM killer": {"memory": {"limit": 64 * _MIB, "disableOOMKiller": True}},
    "too few shares": {"cpu": {"shares": 1}},
    "too many shares": {"cpu": {"shares": 262145}},
    "real-time": {"cpu": {"realtimePeriod": 500000, "realtimeRuntime": 0}},
    "unified": {"unified": {"memory.high": "1000000"}},
    "network": {"network": {"classID": 1}},
}
_V2_CASES: dict[str, dict[str, Any] | None] = {
    "unified": {"unified": {"memory.high": "67108864", "cpu.weight": "50", "pids.max": "30"}},
    "unified by line": {"unified": {"cpu.max": "20000 100000"}},
    "unified of no controller": {"unified": {"nothing.max": "1"}},
    "unified elsewhere": {"unified": {"../pids.max": "1"}},
    "unified of no form": {"unified": {"nothing": "1"}},
    "unified with a bad value": {"unified": {"pids.max": "many"}},
    "swap alone": {"memory": {"swap": 64 * _MIB}},
    "memory without limit and swap": {"memory": {"limit": -1, "swap": 64 * _MIB}},
}
_VERSION = hierarchies().version
_CASES.update(_V2_CASES if _VERSION == 2 else _V1_CASES)

_UPDATES: dict[str, list[dict[str, Any]]] = {
    "memory up": [{"memory": {"limit": 128 * _MIB, "swap": 256 * _MIB}}],
    "memory down": [{"memory": {"limit": 32 * _MIB, "swap": 48 * _MIB}}],
    "memory up and down": [
        {"memory": {"limit": 128 * _MIB, "swap": 256 * _MIB}},
        {"memory": {"limit": 32 * _MIB, "swap": 32 * _MIB}},
        {"memory": {"limit": -1, "swap": -1}},
    ],
    "shorter period": [{"cpu": {"quota": 90000, "period": 100000}}, {"cpu": {"quota": 5000, "period": 10000}}],
    "pids": [{"pids": {"limit": 30}}, {"pids": {"limit": -1}}],
    "cpus": [{"cpu": {"cpus": "0"}}, {"cpu": {"cpus": "0-1"}}],
    "shares": [{"cpu": {"shares": 100}}, {"cpu": {"shares": 2000}}],
    "nothing": [{}],
}


def _files(paths: dict[str, str]) -> dict[str, str]:
    """Return the control files' contents, by directory below the hierarchies and name."""
    found = {}
    for controller, path in paths.items():
        for name in sorted(os.listdir(path)):
            file = Path(path, name)
            if file.is_file() and not any(word in name for word in _COUNTERS) and os.access(file, os.R_OK):
                try:
                    found[f"{controller}/{name}"] = file.read_text()
                except OSError as error:
                    found[f"{controller}/{name}"] = str(error.errno)
    return found


@pytest.mark.parametrize("case", _CASES)
def test_limits(case: str, parent: str, runc: Runc, processes: Processes) -> None:
    resources = _CASES[case]
    id, refusal = runc.create(f"{parent}/same", resources)
    theirs = _files(runc.paths(id)) if not refusal else {}
    runc.delete(id)
    cgroup = new_cgroup(f"{parent}/same", "id", systemd=False, rootless=False)
    message = ""
    try:
        cgroup.create(resources)
        cgroup.join(processes.sleep())
        cgroup.set(resources or {})
        ours = _files(cgroup.paths)
    except Error as error:
        message = error.message
        ours = {}
    processes.end()
    cgroup.delete()
    assert bool(message) == bool(refusal), f"ours: {message}; runc's: {refusal}"
    assert message.startswith(SETTING) >= (SETTING in refusal)
    assert message.removeprefix(SETTING) in refusal.replace('\\"', '"')
    assert ours == theirs


@pytest.mark.parametrize("case", _UPDATES)
def test_update(case: str, parent: str, runc: Runc, processes: Processes) -> None:
    base = {**DOCKER, "memory": {"limit": 64 * _MIB, "swap": 96 * _MIB}, "pids": {"limit": 25}}
    id, refusal = runc.create(f"{parent}/same", base)
    assert not refusal
    for update in _UPDATES[case]:
        status, said = runc.command("update", "--resources", "-", id, input=json.dumps(update))
        assert not status, said
    theirs = _files(runc.paths(id))
    runc.delete(id)
    cgroup = new_cgroup(f"{parent}/same", "id", systemd=False, rootless=False)
    cgroup.create(base)
    cgroup.join(processes.sleep())
    cgroup.set(base)
    for update in _UPDATES[case]:
        load_cgroup(cgroup.paths).set(update)
    ours = _files(cgroup.paths)
    processes.end()
    cgroup.delete()
    assert ours == theirs


def test_figures(parent: str, runc: Runc) -> None:
    id, refusal = runc.create(f"{parent}/same", {**DOCKER, "memory": {"limit": 64 * _MIB}, "pids": {"limit": 25}})
    assert not refusal
    status, _ = runc.command("start", id)
    assert not status
    status, _ = runc.command("pause", id)
    assert not status
    cgroup = load_cgroup(runc.paths(id))
    assert cgroup.frozen()
    for _ in range(20):
        # Memory of the kernel is given back whenever it likes.
        _, said = runc.command("events", "--stats", id)
        theirs = json.loads(said)["data"]
        ours = cgroup.stats()
        if ours == theirs:
            break
    cgroup.thaw()
    runc.delete(id)
    assert json.loads(json.dumps(ours)) == theirs
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("path", [None, "", "relative/path", "../../up", "/"])
def test_paths(path: str | None, runc: Runc, parent: str) -> None:
    if path == "/":
        path = f"{parent}/./a/../b/"
    elif path:
        path = f"{parent[1:]}/{path}"
    id, refusal = runc.create(path, {})
    assert not refusal
    theirs = runc.paths(id)
    runc.delete(id)
    assert new_cgroup(path or "", id, systemd=False, rootless=False).paths == theirs
    for found in theirs.values():
        # What runc made above the container's own is nobody's to remove but the test's.
        above = Path(found).parent
        while parent[1:] in above.parts:
            above.rmdir()
            above = above.parent

"""The systemd driver: the units that it makes beside those of Debian's runc, where systemd is the first process.

`tools/vm.py --systemd` boots such a machine, in which tests/vm/test_systemd.py runs these.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.names import unique
from tests.runc.cgroups.conftest import Processes, Runc
from tests.runc.cgroups.test_against_runc import DOCKER, _files
from wherry.errors import InvalidArgument, Unknown
from wherry.runc.cgroups import bus
from wherry.runc.cgroups.annotations import annotation_properties, parse_variant
from wherry.runc.cgroups.cgroup import load_cgroup, new_cgroup
from wherry.runc.cgroups.properties import bit_mask
from wherry.runc.cgroups.systemd import slice_path

_BOOTED = os.path.isdir("/run/systemd/system")
booted = pytest.mark.skipif(not _BOOTED, reason="systemd is not the first process here")

_MIB = 1 << 20
_SHOWN = (
    "Slice Delegate DevicePolicy DeviceAllow MemoryMax MemoryLow MemorySwapMax CPUWeight CPUQuotaPerSecUSec "
    "CPUQuotaPeriodUSec TasksMax AllowedCPUs AllowedMemoryNodes MemoryAccounting CPUAccounting IOAccounting "
    "TasksAccounting DefaultDependencies ActiveState SubState MemoryHigh"
).split()

_CASES: dict[str, dict[str, Any]] = {
    "docker": {**DOCKER, "memory": {"limit": 64 * _MIB, "swap": 96 * _MIB, "reservation": 32 * _MIB}},
    "cpu": {"cpu": {"shares": 512, "quota": 20500, "period": 50000, "cpus": "0-1", "mems": "0"}, "pids": {"limit": 20}},
    "no limits": {"memory": {"limit": -1}, "cpu": {"quota": -1, "period": 50000}, "pids": {"limit": -1}},
    "unified": {"unified": {"memory.high": "67108864", "cpu.weight": "50", "pids.max": "30", "cpu.max": "max"}},
    "all devices": {"devices": [{"allow": True, "access": "rwm"}]},
    "devices": {"devices": [{"allow": True, "type": "c", "major": 1, "access": "rw"}]},
}


def _shown(unit: str) -> dict[str, str]:
    output = subprocess.run(
        ["systemctl", "show", unit, *(f"--property={name}" for name in _SHOWN)], stdout=subprocess.PIPE, text=True
    ).stdout
    found: dict[str, str] = {}
    for line in output.splitlines():
        name, _, value = line.partition("=")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


@pytest.fixture
def slice() -> Iterator[str]:
    name = f"{unique('wherrytest')}.slice"
    yield name
    subprocess.run(["systemctl", "stop", name], stderr=subprocess.DEVNULL)
    assert not Path(f"/sys/fs/cgroup/{name}").exists()


@booted
@pytest.mark.parametrize("case", _CASES)
def test_units(case: str, slice: str, runc: Runc, processes: Processes) -> None:
    resources = _CASES[case]
    path = f"{slice}:wherry:{case.replace(' ', '_')}"
    id, refusal = runc.create(path, resources, flags=("--systemd-cgroup",))
    assert not refusal
    paths = runc.paths(id)
    unit = os.path.basename(paths[""])
    theirs = _shown(unit), _files(paths)
    assert not runc.command("delete", "--force", id, flags=("--systemd-cgroup",))[0]
    assert not Path(paths[""]).exists()

    cgroup = new_cgroup(path, "id", systemd=True, rootless=False)
    assert cgroup.paths == paths
    assert cgroup.systemd_unit == unit
    cgroup.create(resources)
    pid = processes.sleep()
    cgroup.join(pid)
    assert cgroup.pids() == [pid]
    cgroup.set(resources)
    ours = _shown(unit), _files(cgroup.paths)
    processes.end()
    cgroup.delete()
    assert ours == theirs
    assert _shown(unit)["ActiveState"] == "inactive"
    assert not Path(paths[""]).exists()


#: What annotations ask for, and how systemctl(1) shows it.
_ANNOTATIONS = {
    "org.systemd.property.TimeoutStopUSec": "uint64 123456789",
    "org.systemd.property.CollectMode": "'inactive-or-failed'",
    "org.systemd.property.RuntimeMaxSec": "900",
    "org.systemd.property.TasksMax": "@t 77",
    "org.systemd.property.Documentation": "[\"man:wherry(1)\", 'man:runc(8)']",
    "org.example.other": "not for systemd",
}
_ASKED = {
    "TimeoutStopUSec": "2min 3.456789s",
    "CollectMode": "inactive-or-failed",
    "RuntimeMaxUSec": "15min",
    "TasksMax": "77",
    "Documentation": '"man:wherry(1)" "man:runc(8)"',
}


@booted
def test_properties_of_annotations(slice: str, runc: Runc, processes: Processes) -> None:
    path = f"{slice}:wherry:annotated"

    def shown() -> dict[str, str]:
        command = ["systemctl", "show", "wherry-annotated.scope", *(f"--property={name}" for name in _ASKED)]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    id, refusal = runc.create(path, {}, flags=("--systemd-cgroup",), annotations=_ANNOTATIONS)
    assert not refusal
    theirs = shown()
    assert not runc.command("delete", "--force", id, flags=("--systemd-cgroup",))[0]
    cgroup = new_cgroup(path, "id", systemd=True, rootless=False, annotations=_ANNOTATIONS)
    cgroup.create({})
    cgroup.join(processes.sleep())
    ours = shown()
    processes.end()
    cgroup.delete()
    assert ours == theirs == _ASKED


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", ("b", True)),
        ("2", ("i", 2)),
        ("-0x10", ("i", -16)),
        ("017", ("i", 15)),
        ("0", ("i", 0)),
        ("uint64 18446744073709551615", ("t", (1 << 64) - 1)),
        ("@t 5", ("t", 5)),
        ("1.5", ("d", 1.5)),
        ("double 3", ("d", 3.0)),
        (" 'it''", None),
        ("'it\\'s \\u00e9'", ("s", "it's \u00e9")),
        ('"a b"', ("s", "a b")),
        ("['a', 'b']", ("as", ["a", "b"])),
        ("@as []", ("as", [])),
        ("[[1, 2], []]", ("aai", [[1, 2], []])),
        ("@ay [1, 0xff]", ("ay", b"\x01\xff")),
        ("objectpath '/a'", ("o", "/a")),
        *(
            (wrong, None)
            for wrong in ("", "[]", "[1, 'a']", "300 4", "byte 256", "uint16 -1", "{'a': 1}", "(1, 2)", "'a")
        ),
        *(
            (wrong, None)
            for wrong in ("word", "@a{sv} {}", "@", "2147483648", "true 1", "[1", "1_000", "[" * 99, "int32 'a'")
        ),
        ("'\\uzzzz'", None),
    ],
)
def test_variants(text: str, value: object) -> None:
    if value is None:
        with pytest.raises(ValueError, match=r"."):
            parse_variant(text)
    else:
        assert parse_variant(text) == value


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("RuntimeMaxSec", "2", ("RuntimeMaxUSec", ("t", 2_000_000))),
        ("RuntimeMaxSec", "0.5", ("RuntimeMaxUSec", ("t", 500_000))),
        ("RuntimeMaxUSec", "uint64 2", ("RuntimeMaxUSec", ("t", 2))),
        ("RuntimeMaxSec", "'2'", None),
        ("RuntimeMaxSec", "-1", None),
        ("Runtime Max", "2", None),
        ("Ab", "2", None),
        ("Delegate", "maybe", None),
    ],
)
def test_annotations(name: str, text: str, found: object) -> None:
    annotations = {f"org.systemd.property.{name}": text, "another": "2"}
    if found is None:
        with pytest.raises(InvalidArgument, match=r"annotation org\.systemd\.property\."):
            annotation_properties(annotations)
    else:
        assert annotation_properties(annotations) == [found]


@booted
def test_life(slice: str, processes: Processes) -> None:
    made = new_cgroup(f"{slice}:wherry:life", "id", systemd=True, rootless=False)
    assert not made.exists()
    made.create({})
    process = processes.start("sleep", "1000")
    made.join(process.pid)
    made.set({"cpu": {"quota": 50000, "period": 100000}})
    cgroup = load_cgroup(made.paths, systemd_unit=made.systemd_unit)
    second = processes.start("sleep", "1000")
    cgroup.join(second.pid)
    assert sorted(cgroup.pids()) == sorted([process.pid, second.pid])
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.set({"cpu": {"quota": 20000}, "pids": {"limit": 9}})
    assert cgroup.frozen()
    cgroup.thaw()
    assert Path(cgroup.paths[""], "cpu.max").read_text() == "20000 100000\n"
    shown = _shown(made.systemd_unit)
    assert (shown["CPUQuotaPerSecUSec"], shown["TasksMax"]) == ("200ms", "9")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert Path(cgroup.paths[""], "cpu.max").read_text() == "20000 100000\n"
    assert json.dumps(cgroup.stats())
    cgroup.kill(signal.SIGKILL)
    assert [process.wait(), second.wait()] == [-signal.SIGKILL] * 2
    cgroup.delete()
    cgroup.delete()
    assert not cgroup.exists()


@booted
def test_default_path(runc: Runc) -> None:
    id, refusal = runc.create(None, {}, flags=("--systemd-cgroup",))
    assert not refusal
    theirs = runc.paths(id)
    assert not runc.command("delete", "--force", id, flags=("--systemd-cgroup",))[0]
    assert new_cgroup("", id, systemd=True, rootless=False).paths == theirs


@booted
def test_a_slice_of_its_own(processes: Processes) -> None:
    name = unique("wherrytest")
    cgroup = new_cgroup(f":x:{name}.slice", "id", systemd=True, rootless=False)
    assert cgroup.systemd_unit == f"{name}.slice"
    with pytest.raises(Unknown, match="unable to start unit"):  # a slice has no processes of its own
        cgroup.create({})
        cgroup.join(processes.sleep())
    cgroup.delete()


@booted
def test_a_unit_that_there_is(slice: str, processes: Processes) -> None:
    first = new_cgroup(f"{slice}:wherry:twice", "id", systemd=True, rootless=False)
    first.create({})
    pid = processes.sleep()
    first.join(pid)
    second = new_cgroup(f"{slice}:wherry:twice", "id", systemd=True, rootless=False)
    second.create({})
    with pytest.raises(Unknown, match=r"wherry-twice\.scope"):
        second.join(processes.sleep())
    second.delete()
    assert first.pids() == [pid]
    processes.end()
    first.delete()


@booted
def test_without_a_bus(monkeypatch: pytest.MonkeyPatch, slice: str, processes: Processes) -> None:
    """systemd itself is asked where there is no bus."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
    cgroup = new_cgroup(f"{slice}:wherry:direct", "id", systemd=True, rootless=False)
    cgroup.create({})
    pid = processes.sleep()
    cgroup.join(pid)
    cgroup.set({"pids": {"limit": 5}})
    assert cgroup.pids() == [pid]
    connection = bus.connect(user=False)
    assert "252" in connection.manager_property("Version")
    connection.close()
    processes.end()
    cgroup.delete()


@pytest.mark.skipif(_BOOTED, reason="systemd is the first process here")
def test_without_systemd() -> None:
    with pytest.raises(Unknown, match="systemd not running on this host, cannot use systemd cgroups manager"):
        new_cgroup("a.slice:b:c", "id", systemd=True, rootless=False)
    with pytest.raises(Unknown, match='format "slice:prefix:name" for systemd cgroups, got "/a/b" instead'):
        new_cgroup("/a/b", "id", systemd=True, rootless=False)


@pytest.mark.parametrize(
    ("slice", "path"), [("a.slice", "/a.slice"), ("a-b.slice", "/a.slice/a-b.slice"), ("-.slice", "")]
)
def test_slices(slice: str, path: str) -> None:
    assert slice_path(slice) == path


@pytest.mark.parametrize("slice", ["a", "a--b.slice", "-a.slice", ".slice", "a/b.slice", "", "-"])
def test_no_slices(slice: str) -> None:
    with pytest.raises(Unknown, match="invalid slice name"):
        slice_path(slice)


def test_bit_masks() -> None:
    assert bit_mask("0") == b"\x01"
    assert bit_mask("0-3,9") == b"\x0f\x02"
    for bad in ("", "a", "3-1", "-", "1-", "-1"):
        with pytest.raises(Unknown):
            bit_mask(bad)

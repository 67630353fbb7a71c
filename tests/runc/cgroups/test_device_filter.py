"""A policy of devices as a BPF program, asked by the kernel; and the same policy evaluated here."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.errors import Unknown
from wherry.linux import bpf
from wherry.runc.cgroups import control_files
from wherry.runc.cgroups.device_filter import compile_policy, filter_devices
from wherry.runc.cgroups.devices import DevicePolicy, policy
from wherry.runc.cgroups.hierarchies import hierarchies

_DENY = {"allow": False, "access": "rwm"}
_ALLOW = {"allow": True, "access": "rwm"}


@pytest.fixture
def cgroup(parent: str) -> Iterator[Path]:
    """A directory of cgroup v2's hierarchy."""
    unified = hierarchies().unified
    if not unified:
        pytest.skip("no hierarchy of cgroup v2")
    directory = Path(f"{unified}{parent}/devices")
    directory.mkdir(parents=True)
    yield directory
    directory.rmdir()


def _programs(cgroup: Path) -> int:
    fd = os.open(cgroup, os.O_RDONLY)
    try:
        return bpf.count_device_programs(fd)
    finally:
        os.close(fd)


def _can(cgroup: Path, node: str, mode: str) -> bool:
    """Tell whether a process in a cgroup may open a node ("<", ">", "<>") there."""
    script = f"echo $$ >{cgroup}/cgroup.procs; exec 3{mode}{node}"
    return subprocess.run(["sh", "-c", script], stderr=subprocess.DEVNULL).returncode == 0


def test_what_the_kernel_lets_through(cgroup: Path) -> None:
    assert _can(cgroup, "/dev/kmsg", "<")
    filter_devices(str(cgroup), policy([_DENY]))
    assert _can(cgroup, "/dev/zero", "<>")
    assert not _can(cgroup, "/dev/kmsg", "<")
    filter_devices(str(cgroup), policy([_DENY, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}]))
    assert _can(cgroup, "/dev/kmsg", "<")
    assert not _can(cgroup, "/dev/kmsg", "<>")
    assert _programs(cgroup) == 1


def test_denied_in_part(cgroup: Path) -> None:
    """As with cgroup v1, and unlike runc's program: who asks for two things gets none if one is denied."""
    filter_devices(str(cgroup), policy([_ALLOW, {"allow": False, "type": "c", "major": 1, "minor": 11, "access": "w"}]))
    assert _can(cgroup, "/dev/kmsg", "<")
    assert not _can(cgroup, "/dev/kmsg", ">")
    assert not _can(cgroup, "/dev/kmsg", "<>")
    assert _can(cgroup, "/dev/zero", "<>")


def test_nodes(cgroup: Path, tmp_path: Path) -> None:
    """Any may be made, whatever may be opened."""
    filter_devices(str(cgroup), policy([_DENY]))
    script = f"echo $$ >{cgroup}/cgroup.procs; mknod {tmp_path}/node c 1 11"
    assert subprocess.run(["sh", "-c", script]).returncode == 0
    assert not _can(cgroup, str(tmp_path / "node"), "<")


def test_in_the_place_of_several(cgroup: Path) -> None:
    fd = os.open(cgroup, os.O_RDONLY)
    programs = [bpf.load_device_program(compile_policy(policy([_ALLOW]))) for _ in range(3)]
    try:
        for program in programs:
            bpf._bpf(bpf._PROG_ATTACH, bpf._target(fd, program, bpf._F_ALLOW_MULTI))
    finally:
        for descriptor in (fd, *programs):
            os.close(descriptor)
    assert _programs(cgroup) == 3
    filter_devices(str(cgroup), policy([_DENY]))
    assert _programs(cgroup) == 1
    assert not _can(cgroup, "/dev/kmsg", "<")


def test_no_gap(cgroup: Path) -> None:
    """While one policy takes the place of another, what both deny is never allowed, nor what both allow denied."""
    filter_devices(str(cgroup), policy([_DENY]))
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            filter_devices(str(cgroup), policy([_DENY, {"allow": True, "type": "c", "major": 5, "access": "rw"}]))
            filter_devices(str(cgroup), policy([_DENY]))

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        script = (
            "import os,sys\n"
            f"open('{cgroup}/cgroup.procs','w').write(str(os.getpid()))\n"
            "for _ in range(20000):\n"
            "    os.close(os.open('/dev/zero', os.O_RDWR))\n"
            "    try: os.open('/dev/kmsg', os.O_RDONLY)\n"
            "    except PermissionError: continue\n"
            "    sys.exit(3)\n"
        )
        assert subprocess.run(["python3", "-c", script]).returncode == 0
    finally:
        stop.set()
        thread.join()


def test_many_rules(cgroup: Path) -> None:
    rules = [{"allow": True, "type": "c", "major": 2000 + n, "minor": (1 << 32) - 1, "access": "r"} for n in range(400)]
    filter_devices(str(cgroup), policy([_DENY, *rules]))
    assert not _can(cgroup, "/dev/kmsg", "<")
    assert _can(cgroup, "/dev/zero", "<")


def test_a_program_that_the_kernel_refuses() -> None:
    with pytest.raises(OSError, match=r"R0 !read_ok"):
        bpf.load_device_program(b"\x95\0\0\0\0\0\0\0")


def test_no_such_cgroup() -> None:
    with pytest.raises(FileNotFoundError):
        filter_devices("/sys/fs/cgroup/absent", DevicePolicy())
    with pytest.raises(Unknown):
        raise control_files.refused(FileNotFoundError(2, "No such file or directory"))

"""scheduler.py and personality.py against the kernel."""

from __future__ import annotations

import ctypes
import os
import platform

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linux.child import in_child
from wherry.errors import InvalidArgument
from wherry.linux.libc import libc
from wherry.linux.personality import set_personality
from wherry.linux.scheduler import parse_cpu_list, set_io_priority, set_scheduler
from wherry.linux.syscalls import IOPRIO_SET

root = pytest.mark.skipif(os.geteuid() != 0, reason="priorities need root")


def test_policies_without_privileges() -> None:
    def child() -> None:
        set_scheduler(0, "SCHED_BATCH", 7, 0, ["SCHED_FLAG_RESET_ON_FORK"], 0, 0, 0)
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_BATCH
        assert os.sched_getscheduler(0) & os.SCHED_RESET_ON_FORK
        assert os.getpriority(os.PRIO_PROCESS, 0) == 7
        set_scheduler(os.getpid(), "SCHED_IDLE", 0, 0, ["SCHED_FLAG_RESET_ON_FORK"], 0, 0, 0)
        assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_IDLE

    in_child(child)


@root
def test_real_time() -> None:
    def child() -> None:
        try:
            set_scheduler(0, "SCHED_RR", 0, 3, (), 0, 0, 0)
        except PermissionError:
            return  # a cgroup without real-time budget
        assert os.sched_getscheduler(0) == os.SCHED_RR
        assert os.sched_getparam(0).sched_priority == 3

    in_child(child)


@root
def test_deadlines_reach_the_kernel() -> None:
    def child() -> None:
        with pytest.raises(OSError, match="Invalid argument"):
            set_scheduler(0, "SCHED_DEADLINE", 0, 0, (), 10, 5, 1)
        try:
            set_scheduler(0, "SCHED_DEADLINE", 0, 0, (), 1_000_000, 10_000_000, 100_000_000)
        except OSError as error:
            assert error.errno in (1, 16)  # no budget left, or an affinity
        else:
            assert os.sched_getscheduler(0) == 6

    in_child(child)


@pytest.mark.parametrize(
    ("policy", "nice", "priority", "flags", "runtime"),
    [
        ("SCHED_NONE", 0, 0, [], 0),
        ("", 0, 0, [], 0),
        ("SCHED_OTHER", 20, 0, [], 0),
        ("SCHED_OTHER", 0, -1, [], 0),
        ("SCHED_OTHER", 0, 0, ["SCHED_FLAG_NONE"], 0),
        ("SCHED_DEADLINE", 0, 0, [], 1 << 64),
    ],
)
def test_no_such_scheduling(policy: str, nice: int, priority: int, flags: list[str], runtime: int) -> None:
    with pytest.raises(InvalidArgument):
        set_scheduler(0, policy, nice, priority, flags, runtime, 0, 0)


def test_io_priorities() -> None:
    def child() -> None:
        get = ctypes.c_long({251: 252, 30: 31}[IOPRIO_SET])
        for name, number in (("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)):
            set_io_priority(name, 5)
            assert libc.syscall(get, 1, 0) == number << 13 | 5
        for name, priority in (("IOPRIO_CLASS_NONE", 0), ("IOPRIO_CLASS_BE", 8), ("IOPRIO_CLASS_BE", -1)):
            with pytest.raises(InvalidArgument):
                set_io_priority(name, priority)

    in_child(child)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0", {0}), ("0-2", {0, 1, 2}), (" 1 , 3-4,,", {1, 3, 4}), ("7,7-7", {7}), ("8191", {8191})],
)
def test_lists_of_cpus(text: str, cpus: set[int]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["", ",", "-", "1-", "-1", "2-1", "a", "1-2-3", "8192", "0-99999999999", "٣", "+1"])
def test_no_lists_of_cpus(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_cpu_list(text)


@given(st.text(alphabet="0123456789,- x", max_size=12))
def test_any_text_is_a_list_of_cpus_or_a_clear_error(text: str) -> None:
    try:
        assert parse_cpu_list(text)
    except InvalidArgument:
        return


def test_personalities() -> None:
    def child() -> None:
        set_personality("LINUX32", [])
        assert libc.personality(ctypes.c_ulong(0xFFFFFFFF)) == 8
        assert os.uname().machine == {"x86_64": "i686", "aarch64": "armv8l"}.get(machine, os.uname().machine)
        set_personality("LINUX", [])
        assert os.uname().machine == machine
        for domain, flags in (("SOLARIS", []), ("", []), ("LINUX", ["ADDR_NO_RANDOMIZE"])):
            with pytest.raises(InvalidArgument):
                set_personality(domain, flags)

    machine = platform.machine()
    in_child(child)

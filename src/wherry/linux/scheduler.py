"""Scheduling policies, priorities of I/O, and sets of CPUs. sched(7), sched_setattr(2), ioprio_set(2), cpuset(7)."""

from __future__ import annotations

from struct import Struct

from wherry.errors import InvalidArgument
from wherry.linux import foreign
from wherry.linux.libc import check, libc
from wherry.linux.syscalls import IOPRIO_SET, SCHED_SETATTR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# <linux/sched.h>
POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

# <linux/ioprio.h>
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_SHIFT = 13
_IO_PRIORITIES = range(8)

#: struct sched_attr as of Linux 3.14: size, policy, flags, nice, priority, runtime, deadline, period.
_SCHED_ATTR = Struct("IIQiIQQQ")

#: No kernel is built for more (NR_CPUS of x86).
_MOST_CPUS = 8192


def set_scheduler(
    pid: int, policy: str, nice: int, priority: int, flags: Iterable[str], runtime: int, deadline: int, period: int
) -> None:
    """Set a thread's scheduling policy, 0 being this one, sched_setattr(2).

    Names are those of OCI's process.scheduler; the times, for SCHED_DEADLINE, in nanoseconds. InvalidArgument for a
    name that there is not or a number out of range; OSError (EINVAL, EPERM, EBUSY) from the kernel.
    """
    if policy not in POLICIES:
        raise InvalidArgument(f"invalid scheduler policy: {policy!r}")
    value = 0
    for flag in flags:
        if flag not in FLAGS:
            raise InvalidArgument(f"invalid scheduler flag: {flag!r}")
        value |= FLAGS[flag]
    numbers = {"priority": priority, "runtime": runtime, "deadline": deadline, "period": period}
    for name, number in numbers.items():
        if not 0 <= number < 1 << (32 if name == "priority" else 64):
            raise InvalidArgument(f"scheduler.{name} {number} is out of range")
    if not -20 <= nice <= 19:
        raise InvalidArgument(f"invalid scheduler.nice: {nice}, it is between -20 and 19")
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, POLICIES[policy], value, nice, priority, runtime, deadline, period)
    call = foreign.c_long(SCHED_SETATTR)
    check(libc.syscall(call, foreign.c_int(pid), foreign.c_char_p(attributes), foreign.c_uint(0)))


def set_io_priority(class_name: str, priority: int) -> None:
    """Set the class and, 0 to 7, the priority of this process's I/O, ioprio_set(2). The name is one of OCI's.

    InvalidArgument for what there is not; OSError (EPERM: IOPRIO_CLASS_RT without CAP_SYS_NICE).
    """
    if class_name not in IO_CLASSES:
        raise InvalidArgument(f"invalid ioPriority.Class: {class_name!r}")
    if priority not in _IO_PRIORITIES:
        raise InvalidArgument(f"invalid ioPriority.Priority: {priority}")
    value = IO_CLASSES[class_name] << _IOPRIO_CLASS_SHIFT | priority
    call = foreign.c_long(IOPRIO_SET)
    check(libc.syscall(call, foreign.c_int(_IOPRIO_WHO_PROCESS), foreign.c_int(0), foreign.c_int(value)))


def parse_cpu_list(text: str) -> set[int]:
    """Return the CPUs of a list like ``0-3,7``, cpuset(7). Spaces and empty elements are let pass, as runc does.

    InvalidArgument for anything else, and for a list of none.
    """
    found: set[int] = set()
    for element in text.split(","):
        element = element.strip()
        if not element:
            continue
        first, dash, last = element.partition("-")
        if not dash:
            last = first
        if not all(part.isascii() and part.isdigit() for part in (first, last)):
            raise InvalidArgument(f"{text!r} is no list of CPUs: {element!r}")
        if int(first) > int(last) or int(last) >= _MOST_CPUS:
            raise InvalidArgument(f"{text!r} is no list of CPUs: {element!r} is out of range")
        found.update(range(int(first), int(last) + 1))
    if not found:
        raise InvalidArgument(f"no CPUs found in {text!r}")
    return found

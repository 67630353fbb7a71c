"""The limits of a LinuxResources document, written to the control files of cgroup v1.

OCI runtime specification, config-linux.md, "Control groups"; Documentation/admin-guide/cgroup-v1/ of the kernel. What
is absent or 0 is left as it is, -1 means no limit. Each function takes the controller's directory and the document,
and raises OSError, or Unknown for what can't be.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import Unknown
from wherry.runc.cgroups.control_files import number, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Resources = Mapping[str, Any]

_MAX_SWAPPINESS = 100


def set_cpuset(path: str, cpu: Mapping[str, Any]) -> None:
    """Set the cpus and memory nodes of `resources.cpu`."""
    if cpu.get("cpus"):
        write(path, "cpuset.cpus", cpu["cpus"])
    if cpu.get("mems"):
        write(path, "cpuset.mems", cpu["mems"])


def set_real_time(path: str, cpu: Mapping[str, Any]) -> None:
    """Set the time that `resources.cpu` gives real-time processes, in microseconds."""
    if cpu.get("realtimePeriod"):
        write(path, "cpu.rt_period_us", str(cpu["realtimePeriod"]))
    if cpu.get("realtimeRuntime"):
        write(path, "cpu.rt_runtime_us", str(cpu["realtimeRuntime"]))


def _cpuset(path: str, resources: Resources) -> None:
    set_cpuset(path, resources.get("cpu") or {})


def _cpu(path: str, resources: Resources) -> None:
    cpu = resources.get("cpu") or {}
    if shares := cpu.get("shares"):
        write(path, "cpu.shares", str(shares))
        # The kernel takes any number, and makes it one that it likes.
        taken = number(path, "cpu.shares")
        if shares > taken:
            raise Unknown(f"the maximum allowed cpu-shares is {taken}")
        if shares < taken:
            raise Unknown(f"the minimum allowed cpu-shares is {taken}")
    if cpu.get("idle") is not None:
        write(path, "cpu.idle", str(cpu["idle"]))
    set_bandwidth(
        [
            ("cpu.cfs_burst_us", cpu.get("burst")),
            ("cpu.cfs_period_us", cpu.get("period") or None),
        ],
        ("cpu.cfs_quota_us", cpu.get("quota") or None),
        path,
    )
    set_real_time(path, cpu)


def set_bandwidth(first: list[tuple[str, Any]], last: tuple[str, Any], path: str) -> None:
    """Write files that the kernel checks against one another: what it refuses at first comes again after `last`."""
    again = []
    name, value = last
    for file, wanted in first:
        if wanted is None:
            continue
        try:
            write(path, file, str(wanted))
        except OSError as error:
            if error.errno != errno.EINVAL or value is None:
                raise
            again.append((file, wanted))
    if value is not None:
        write(path, name, str(value))
    for file, wanted in again:
        write(path, file, str(wanted))


def _memory(path: str, resources: Resources) -> None:
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not swap and os.path.exists(f"{path}/memory.memsw.limit_in_bytes"):
        swap = -1  # no limit of memory is none of memory and swap either
    # The kernel wants the limit of both to be no lower than that of memory, at each moment.
    if limit and swap and (swap == -1 or number(path, "memory.limit_in_bytes") < swap):
        _set_swap(path, swap)
        _set_memory(path, limit)
    else:
        _set_memory(path, limit)
        _set_swap(path, swap)
    if memory.get("reservation"):
        write(path, "memory.soft_limit_in_bytes", str(memory["reservation"]))
    if memory.get("disableOOMKiller"):
        write(path, "memory.oom_control", "1")
    swappiness = memory.get("swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= _MAX_SWAPPINESS:
            raise Unknown(f"invalid memory swappiness value: {swappiness} (valid range is 0-100)")
        write(path, "memory.swappiness", str(swappiness))


def _set_swap(path: str, limit: int) -> None:
    if limit:
        write(path, "memory.memsw.limit_in_bytes", str(limit))


def _set_memory(path: str, limit: int) -> None:
    if not limit:
        return
    try:
        write(path, "memory.limit_in_bytes", str(limit))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        usage = int(read(path, "memory.usage_in_bytes"))
        peak = int(read(path, "memory.max_usage_in_bytes"))
        raise Unknown(f"unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})") from None


def _pids(path: str, resources: Resources) -> None:
    if limit := (resources.get("pids") or {}).get("limit"):
        write(path, "pids.max", str(limit) if limit > 0 else "max")


def _blkio(path: str, resources: Resources) -> None:
    block = resources.get("blockIO") or {}
    if not block:
        return
    # BFQ's files, where the older scheduler's are not.
    prefix = "blkio." if os.path.exists(f"{path}/blkio.weight") else "blkio.bfq."
    if block.get("weight"):
        write(path, f"{prefix}weight", str(block["weight"]))
    if block.get("leafWeight"):
        write(path, "blkio.leaf_weight", str(block["leafWeight"]))
    for device in block.get("weightDevice") or ():
        numbers = f"{device.get('major', 0)}:{device.get('minor', 0)}"
        if device.get("weight"):
            write(path, f"{prefix}weight_device", f"{numbers} {device['weight']}")
        if device.get("leafWeight"):
            write(path, "blkio.leaf_weight_device", f"{numbers} {device['leafWeight']}")
    for field, file in (
        ("throttleReadBpsDevice", "read_bps"),
        ("throttleWriteBpsDevice", "write_bps"),
        ("throttleReadIOPSDevice", "read_iops"),
        ("throttleWriteIOPSDevice", "write_iops"),
    ):
        for device in block.get(field) or ():
            line = f"{device.get('major', 0)}:{device.get('minor', 0)} {device.get('rate', 0)}"
            write(path, f"blkio.throttle.{file}_device", line)


def _hugetlb(path: str, resources: Resources) -> None:
    for entry in resources.get("hugepageLimits") or ():
        size, limit = entry["pageSize"], str(entry["limit"])
        write(path, f"hugetlb.{size}.limit_in_bytes", limit)
        try:
            write(path, f"hugetlb.{size}.rsvd.limit_in_bytes", limit)
        except FileNotFoundError:
            pass  # before Linux 5.7 pages are counted when they are touched, not when they are reserved


def _net_cls(path: str, resources: Resources) -> None:
    if identifier := (resources.get("network") or {}).get("classID"):
        write(path, "net_cls.classid", str(identifier))


def _net_prio(path: str, resources: Resources) -> None:
    for entry in (resources.get("network") or {}).get("priorities") or ():
        write(path, "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}")


def set_rdma(path: str, resources: Resources) -> None:
    """Set the limits of `resources.rdma`, a device each. The same in both versions."""
    for device, limits in (resources.get("rdma") or {}).items():
        words = [
            f"{file}={limits[field]}"
            for field, file in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(field) is not None
        ]
        if words:
            write(path, "rdma.max", f"{device} {' '.join(words)}")


#: What sets a controller's limits.
SETTERS: tuple[tuple[str, Callable[[str, Resources], None]], ...] = (
    ("cpuset", _cpuset),
    ("memory", _memory),
    ("cpu", _cpu),
    ("pids", _pids),
    ("blkio", _blkio),
    ("hugetlb", _hugetlb),
    ("net_cls", _net_cls),
    ("net_prio", _net_prio),
    ("rdma", set_rdma),
)

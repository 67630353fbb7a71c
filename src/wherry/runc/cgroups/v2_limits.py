"""The limits of a LinuxResources document, written to the control files of cgroup v2.

OCI runtime specification, config-linux.md, "Control groups"; Documentation/admin-guide/cgroup-v2.rst of the kernel.
The document's numbers are cgroup v1's. What is absent or 0 is left as it is, -1 means no limit. Functions raise
OSError, or Unknown for what can't be.
"""

from __future__ import annotations

import errno

from wherry.errors import Unknown
from wherry.runc.cgroups.control_files import FORBIDDEN, number, read, refused, text, write
from wherry.runc.cgroups.v1_limits import set_bandwidth, set_rdma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Resources = Mapping[str, Any]

#: Microseconds, where none are named.
DEFAULT_PERIOD = 100_000

# cgroup v1: shares of 2 to 262144, block weights of 10 to 1000. cgroup v2 has weights of 1 to 10000 for both.
_SHARES = (2, 262_144)
_BLOCK_WEIGHTS = (10, 1000)
_MAX_WEIGHT = 10_000


def set_limits(path: str, resources: Resources) -> None:
    """Set all but devices and `unified`."""
    if limit := (resources.get("pids") or {}).get("limit"):
        write(path, "pids.max", str(limit) if limit > 0 else "max")
    _set_memory(path, resources.get("memory") or {})
    _set_io(path, resources.get("blockIO") or {})
    cpu = resources.get("cpu") or {}
    _set_cpu(path, cpu)
    if cpu.get("cpus"):
        write(path, "cpuset.cpus", cpu["cpus"])
    if cpu.get("mems"):
        write(path, "cpuset.mems", cpu["mems"])
    set_hugetlb(path, resources)
    set_rdma(path, resources)


def controllers_needed(resources: Resources) -> set[str]:
    """Return the controllers without which these limits can't be set."""
    memory, cpu, block = (resources.get(name) or {} for name in ("memory", "cpu", "blockIO"))
    needed = {
        "pids": (resources.get("pids") or {}).get("limit"),
        "memory": any(memory.get(name) for name in ("limit", "reservation", "swap")),
        "io": any(value for name, value in block.items() if name not in ("leafWeight",)),
        "cpu": any(cpu.get(name) for name in ("shares", "quota", "period", "burst", "idle")),
        "cpuset": cpu.get("cpus") or cpu.get("mems"),
        "hugetlb": resources.get("hugepageLimits"),
        "rdma": resources.get("rdma"),
    }
    return {name for name, wanted in needed.items() if wanted}


def cpu_weight(shares: int) -> int:
    """Return the cpu.weight that stands for cgroup v1's cpu.shares, 0 for none."""
    if not shares:
        return 0
    low, high = _SHARES
    return 1 + (min(max(shares, low), high) - low) * (_MAX_WEIGHT - 1) // (high - low)


def io_weight(weight: int) -> int:
    """Return the io.weight that stands for cgroup v1's blkio.weight, 0 for none."""
    if not weight:
        return 0
    low, high = _BLOCK_WEIGHTS
    return 1 + (weight - low) * (_MAX_WEIGHT - 1) // (high - low)


def swap_limit(swap: int, memory: int) -> int | None:
    """Return the limit of swap alone where the document has one of memory and swap; -1 for none, None if not named.

    Unknown.
    """
    if memory == -1 and not swap:
        return -1  # no limit of memory is none of memory and swap either
    if not swap:
        return None
    if swap == -1:
        return -1
    if memory in (0, -1):
        raise Unknown("unable to set swap limit without memory limit")
    if memory < 0:
        raise Unknown(f"invalid memory value: {memory}")
    if swap < memory:
        raise Unknown("memory+swap limit should be >= memory limit")
    return swap - memory


def _limit(value: int) -> str:
    return "max" if value == -1 else str(value)


def _set_memory(path: str, memory: Mapping[str, Any]) -> None:
    limit, both = memory.get("limit") or 0, memory.get("swap") or 0
    if memory.get("checkBeforeUpdate"):
        usage = number(path, "memory.current")
        if 0 < both <= usage:
            raise Unknown(f"rejecting memory+swap limit {both} <= usage {usage}")
        if 0 < limit <= usage:
            raise Unknown(f"rejecting memory limit {limit} <= usage {usage}")
    swap = swap_limit(both, limit)
    if swap is not None:
        try:
            write(path, "memory.swap.max", _limit(swap))
        except FileNotFoundError:
            # Without swap there is none to be limited.
            if swap > 0:
                raise
    if limit:
        write(path, "memory.max", _limit(limit))
    if reservation := memory.get("reservation"):
        write(path, "memory.low", _limit(reservation))


def _set_cpu(path: str, cpu: Mapping[str, Any]) -> None:
    if cpu.get("idle") is not None:
        write(path, "cpu.idle", str(cpu["idle"]))
    if shares := cpu.get("shares"):
        write(path, "cpu.weight", str(cpu_weight(shares)))
    quota, period, burst = cpu.get("quota") or 0, cpu.get("period") or 0, cpu.get("burst")
    value = None
    if quota or period:
        # One file has both: the other one is to stay.
        present = text(path, "cpu.max").split() or ["max"]
        wanted = present[0] if not quota else str(quota) if quota > 0 else "max"
        value = f"{wanted} {period or (present[1:] or [str(DEFAULT_PERIOD)])[0]}"
    set_bandwidth([("cpu.max.burst", burst)], ("cpu.max", value), path)


def _set_io(path: str, block: Mapping[str, Any]) -> None:
    weight, devices = block.get("weight"), block.get("weightDevice") or ()
    bfq = text(path, "io.bfq.weight") if weight or devices else ""
    if weight:
        if bfq:
            write(path, "io.bfq.weight", str(weight))
        else:
            write(path, "io.weight", str(io_weight(weight)))
    # Before Linux 5.4 the file is but a number, and there are no weights of devices.
    if bfq and not bfq.strip().isdigit():
        for device in devices:
            if device.get("weight"):
                write(path, "io.bfq.weight", f"{_device(device)} {device['weight']}")
    for field, name in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in block.get(field) or ():
            write(path, "io.max", f"{_device(device)} {name}={device.get('rate') or 'max'}")


def _device(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('major', 0)}:{entry.get('minor', 0)}"


def set_hugetlb(path: str, resources: Resources) -> None:
    """Set the limits of `resources.hugepageLimits`: of pages in use, and of reserved ones where the kernel has that."""
    for entry in resources.get("hugepageLimits") or ():
        size, limit = entry["pageSize"], str(entry["limit"])
        write(path, f"hugetlb.{size}.max", limit)
        try:
            write(path, f"hugetlb.{size}.rsvd.max", limit)
        except FileNotFoundError:
            pass  # before Linux 5.7 pages are counted when they are touched, not when they are reserved


def set_unified(path: str, unified: Mapping[str, str]) -> None:
    """Set the control files that the document names by themselves. Unknown."""
    for name, value in unified.items():
        if "/" in name or "\0" in name:
            raise Unknown(f'unified resource "{name}" must be a file name (no slashes)')
        try:
            # Each line is an entry, which a write of its own sets.
            for line in value.split("\n"):
                write(path, name, line)
        except OSError as error:
            if error.errno not in (*FORBIDDEN, errno.ENOENT):
                raise refused(error, f'unable to set unified resource "{name}": ') from None
            controller, dot, _file = name.partition(".")
            if not dot:
                raise Unknown(f'unified resource "{name}" must be in the form CONTROLLER.PARAMETER') from None
            if controller != "cgroup" and controller not in read(path, "cgroup.controllers").split():
                raise Unknown(
                    f'unified resource "{name}" can\'t be set: controller "{controller}" not available'
                ) from None
            raise refused(error, f'unable to set unified resource "{name}": ') from None

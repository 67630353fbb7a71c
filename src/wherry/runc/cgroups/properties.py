"""The limits of a LinuxResources document as properties of a systemd unit. systemd.resource-control(5)."""

from __future__ import annotations

from wherry.errors import Unknown
from wherry.runc.cgroups.control_files import text
from wherry.runc.cgroups.devices import ANY, policy
from wherry.runc.cgroups.v2_limits import DEFAULT_PERIOD, cpu_weight, swap_limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    #: Its name, and its value with the D-Bus signature of that.
    Property = tuple[str, tuple[str, Any]]

_INFINITY = (1 << 64) - 1

#: systemd counts a quota in hundredths of a cpu: in steps of so many microseconds a second.
_QUOTA_STEP = 10_000
_SECOND = 1_000_000

_UNIFIED_NUMBERS = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}
_UNIFIED_LISTS = {"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}


def resource_properties(
    resources: Mapping[str, Any], version: int, *, devices: bool, bandwidth: tuple[int, int]
) -> list[Property]:
    """Return the properties that stand for limits; systemd has none for the others. Unknown.

    `bandwidth` is the quota and the period in microseconds, as of `cpu_bandwidth`.
    """
    found: list[Property] = _device_properties(resources.get("devices") or ()) if devices else []
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    limit = memory.get("limit") or 0
    numbers: tuple[tuple[str, int | None], ...]
    if version == 2:
        swap = swap_limit(memory.get("swap") or 0, limit)
        numbers = (
            ("MemoryMax", limit or None),
            ("MemoryLow", memory.get("reservation") or None),
            ("MemorySwapMax", swap),
            ("CPUWeight", cpu_weight(cpu.get("shares") or 0) or None),
        )
    else:
        numbers = (
            ("MemoryLimit", limit or None),
            ("CPUShares", cpu.get("shares") or None),
            ("BlockIOWeight", (resources.get("blockIO") or {}).get("weight") or None),
        )
    found += [(name, _number(value)) for name, value in numbers if value is not None]
    found += _quota(*bandwidth)
    pids = (resources.get("pids") or {}).get("limit") or 0
    if pids > 0 or pids == -1:
        found.append(("TasksMax", _number(pids)))
    for field, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(field):
            found.append((name, ("ay", bit_mask(cpu[field]))))
    for key, value in (resources.get("unified") or {}).items():
        found += _unified(key, value.strip())
    return found


def _number(value: int) -> tuple[str, int]:
    return "t", value & _INFINITY  # -1 is infinity


def cpu_bandwidth(resources: Mapping[str, Any], paths: Mapping[str, str]) -> tuple[int, int]:
    """Return the quota and the period of `resources.cpu`; of the cgroup, if only the other one is named; 0 for none."""
    cpu = resources.get("cpu") or {}
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if bool(quota) == bool(period):
        return quota, period
    if "cpu" in paths:
        present = [text(paths["cpu"], f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    else:
        present = text(paths.get("", ""), "cpu.max").split()
    if len(present) == 2 and present[1].isdigit():
        quota = quota or (int(present[0]) if present[0].isdigit() else -1)
        period = period or int(present[1])
    return quota, period


def _quota(quota: int, period: int) -> list[Property]:
    found: list[Property] = []
    if period:
        found.append(("CPUQuotaPeriodUSec", ("t", period)))
    if quota or period:
        a_second = -1
        if quota > 0:
            # Rounded up: a cgroup below it may want all of the quota.
            steps = -(-(quota * _SECOND // (period or DEFAULT_PERIOD)) // _QUOTA_STEP)
            a_second = steps * _QUOTA_STEP
        found.append(("CPUQuotaPerSecUSec", _number(a_second)))
    return found


def bit_mask(ranges: str) -> bytes:
    """Return a list of numbers ("0-3,6") as systemd takes them: a bit each, from the first byte on. Unknown."""
    mask = 0
    for item in ranges.split(","):
        first, dash, last = item.strip().partition("-")
        if not first and not dash:
            continue
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) < int(first):
            raise Unknown(f'"{ranges}" is no list of numbers')
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    if not mask:
        raise Unknown(f'"{ranges}" is an empty list')
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _unified(key: str, value: str) -> list[Property]:
    if "/" in key:
        raise Unknown(f'unified resource "{key}" must be a file name (no slashes)')
    if "." not in key:
        raise Unknown(f'unified resource "{key}" must be in the form CONTROLLER.PARAMETER')
    try:
        if key == "cpu.max":
            quota, *period = value.split()
            return _quota(0 if quota == "max" else int(quota), int(period[0]) if period else DEFAULT_PERIOD)
        if key in _UNIFIED_LISTS:
            return [(_UNIFIED_LISTS[key], ("ay", bit_mask(value)))]
        if key in _UNIFIED_NUMBERS:
            return [(_UNIFIED_NUMBERS[key], _number(-1 if value == "max" else int(value)))]
    except ValueError:
        raise Unknown(f'unified resource "{key}" value invalid: "{value}"') from None
    return []  # systemd has nothing for it: the control file is written


def _device_properties(rules: Sequence[Mapping[str, Any]]) -> list[Property]:
    wanted = policy(rules)
    if wanted.allow:
        # Only what is allowed can be told; what is denied is in the cgroup.
        return [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    groups = _device_groups()
    entries = []
    for (kind, major, minor), access in sorted(wanted.exceptions.items()):
        letters = "".join(letter for letter in "rwm" if letter in access)
        class_ = "char" if kind == "c" else "block"
        if major == ANY:
            if minor == ANY:
                entries.append((f"{class_}-*", letters))
            continue  # any major and one minor is nothing that systemd has
        if minor != ANY:
            entries.append((f"/dev/{class_}/{major}:{minor}", letters))
        elif (kind, major) in groups:
            entries.append((f"{class_}-{groups[kind, major]}", letters))
    # The empty list takes away what was there.
    return [("DevicePolicy", ("s", "strict")), ("DeviceAllow", ("a(ss)", [])), ("DeviceAllow", ("a(ss)", entries))]


def _device_groups() -> dict[tuple[str, int], str]:
    """Return what /proc/devices calls the majors, by type and number."""
    found: dict[tuple[str, int], str] = {}
    kind = ""
    with open("/proc/devices") as file:
        for line in file:
            if line.startswith(("Character", "Block")):
                kind = "c" if line.startswith("C") else "b"
                continue
            number, _, name = line.strip().partition(" ")
            if number.isdigit():
                found.setdefault((kind, int(number)), name)
    return found

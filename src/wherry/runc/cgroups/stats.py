"""The figures of a container's cgroups as `runc events --stats` prints them.

Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst of the kernel. Of the numbers that are 0 some are left out: those
that runc leaves out.
"""

from __future__ import annotations

import os

from wherry.runc.cgroups.control_files import number, pairs, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Entries = list[dict[str, Any]]

_UNLIMITED = (1 << 64) - 1

_BLOCK_FIELDS = {
    "io_service_bytes": "ioServiceBytesRecursive",
    "io_serviced": "ioServicedRecursive",
    "io_queued": "ioQueueRecursive",
    "io_service_time": "ioServiceTimeRecursive",
    "io_wait_time": "ioWaitTimeRecursive",
    "io_merged": "ioMergedRecursive",
    "time": "ioTimeRecursive",
    "sectors": "sectorsRecursive",
}
#: Which files tell of block devices depends on the scheduler: the first set that says something does.
_BLOCK_SETS = (
    tuple((f"blkio.bfq.{name}_recursive", field) for name, field in reversed(_BLOCK_FIELDS.items())),
    tuple((f"blkio.bfq.{name}_recursive", _BLOCK_FIELDS[name]) for name in ("io_serviced", "io_service_bytes")),
    tuple((f"blkio.{name}_recursive", field) for name, field in reversed(_BLOCK_FIELDS.items())),
    tuple((f"blkio.throttle.{name}_recursive", _BLOCK_FIELDS[name]) for name in ("io_serviced", "io_service_bytes")),
    tuple((f"blkio.throttle.{name}", _BLOCK_FIELDS[name]) for name in ("io_serviced", "io_service_bytes")),
)


def stats_v1(paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the figures of cgroup v1's directories, by controller."""
    return _document(
        cpu=_cpu_v1(paths.get("cpuacct", ""), paths.get("cpu", "")),
        cpuset=_cpuset(paths.get("cpuset", "")),
        memory=_memory_v1(paths.get("memory", "")),
        pids=_pids(paths.get("pids", "")),
        blkio=_block_v1(paths.get("blkio", "")),
        hugetlb=_hugetlb_v1(paths["hugetlb"]) if "hugetlb" in paths else {},
    )


def stats_v2(path: str) -> dict[str, Any]:
    """Return the figures of cgroup v2's directory."""
    cpu = dict(pairs(path, "cpu.stat"))
    return _document(
        cpu={
            "usage": {
                **_filled(total=cpu.get("usage_usec", 0) * 1000),
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": _filled(
                periods=cpu.get("nr_periods", 0),
                throttledPeriods=cpu.get("nr_throttled", 0),
                throttledTime=cpu.get("throttled_usec", 0) * 1000,
            ),
        },
        cpuset=_cpuset(""),
        memory=_memory_v2(path),
        pids=_pids(path),
        blkio=_block_v2(path),
        hugetlb=_hugetlb_v2(path),
    )


def _document(**parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, "intel_rdt": {}, "network_interfaces": None}


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _pids(path: str) -> dict[str, Any]:
    return _filled(current=number(path, "pids.current"), limit=number(path, "pids.max", maximum=0))


# -- cgroup v1 ------------------------------------------------------------------------------------------------------


def _cpu_v1(accounting: str, bandwidth: str) -> dict[str, Any]:
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    stat = dict(pairs(accounting, "cpuacct.stat"))
    # A line for each cpu, after one of headings.
    by_mode = [line.split() for line in text(accounting, "cpuacct.usage_all").splitlines()[1:]]
    throttled = dict(pairs(bandwidth, "cpu.stat"))
    return {
        "usage": {
            **_filled(
                total=number(accounting, "cpuacct.usage"),
                percpu=[int(word) for word in text(accounting, "cpuacct.usage_percpu").split()],
                percpu_kernel=[int(words[2]) for words in by_mode if len(words) == 3],
                percpu_user=[int(words[1]) for words in by_mode if len(words) == 3],
            ),
            "kernel": stat.get("system", 0) * tick,
            "user": stat.get("user", 0) * tick,
        },
        "throttling": _filled(
            periods=throttled.get("nr_periods", 0),
            throttledPeriods=throttled.get("nr_throttled", 0),
            throttledTime=throttled.get("throttled_time", 0),
        ),
    }


def _cpuset(path: str) -> dict[str, Any]:
    switches = (
        "mem_hardwall",
        "mem_exclusive",
        "memory_migrate",
        "memory_spread_page",
        "memory_spread_slab",
        "memory_pressure",
        "sched_load_balance",
        "sched_relax_domain_level",
    )
    return {
        **_filled(cpus=_list(text(path, "cpuset.cpus"))),
        "cpu_exclusive": number(path, "cpuset.cpu_exclusive"),
        **_filled(mems=_list(text(path, "cpuset.mems"))),
        **{name: number(path, f"cpuset.{name}") for name in switches},
    }


def _list(ranges: str) -> list[int]:
    """cpuset(7), "List format"."""
    found: list[int] = []
    for item in ranges.strip().split(","):
        first, _, last = item.partition("-")
        if first:
            found.extend(range(int(first), int(last or first) + 1))
    return found


def _entry(limit: int, usage: int, maximum: int, failures: int) -> dict[str, Any]:
    return {"limit": limit, **_filled(usage=usage, max=maximum), "failcnt": failures}


def _memory_v1(path: str) -> dict[str, Any]:
    raw = dict(pairs(path, "memory.stat"))

    def entry(module: str) -> dict[str, Any]:
        file = f"memory.{module}"
        if not text(path, f"{file}usage_in_bytes"):
            return _entry(0, 0, 0, 0)
        return _entry(
            number(path, f"{file}limit_in_bytes"),
            number(path, f"{file}usage_in_bytes"),
            number(path, f"{file}max_usage_in_bytes"),
            number(path, f"{file}failcnt"),
        )

    return {
        **_filled(cache=raw.get("cache", 0)),
        "usage": entry(""),
        "swap": entry("memsw."),
        "kernel": entry("kmem."),
        "kernelTCP": entry("kmem.tcp."),
        **_filled(raw=dict(sorted(raw.items()))),
    }


def _block_v1(path: str) -> dict[str, Any]:
    for files in _BLOCK_SETS:
        found: dict[str, Entries] = {}
        for file, field in files:
            entries = _block_entries(text(path, file))
            if not entries and not found:
                break
            found[field] = entries
        if found:
            return _filled(**{field: found[field] for field in _BLOCK_FIELDS.values() if field in found})
    return {}


def _block_entries(lines: str) -> Entries:
    entries = []
    for line in lines.splitlines():
        words = line.replace(":", " ").split()
        if len(words) < 3:
            continue  # the total
        operation = words[2] if len(words) == 4 else ""
        entries.append(_filled(major=int(words[0]), minor=int(words[1]), op=operation, value=int(words[-1])))
    return entries


def _sizes(path: str, end: str) -> list[str]:
    """Return the sizes of huge pages that a cgroup counts ("2MB")."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return sorted(
        name.split(".")[1]
        for name in names
        if name.startswith("hugetlb.") and name.count(".") == 2 and name.endswith(end)
    )


def _hugetlb_v1(path: str) -> dict[str, Any]:
    return {
        size: {
            **_filled(
                usage=number(path, f"hugetlb.{size}.usage_in_bytes"),
                max=number(path, f"hugetlb.{size}.max_usage_in_bytes"),
            ),
            "failcnt": number(path, f"hugetlb.{size}.failcnt"),
        }
        for size in _sizes(path, ".usage_in_bytes")
    }


# -- cgroup v2 ------------------------------------------------------------------------------------------------------


def _memory_v2(path: str) -> dict[str, Any]:
    raw = dict(pairs(path, "memory.stat"))
    usage, limit = number(path, "memory.current"), number(path, "memory.max")
    # As cgroup v1 has it, memory and swap together.
    both = number(path, "memory.swap.max")
    if text(path, "memory.swap.current"):
        both = both if both == _UNLIMITED else (both + limit) & _UNLIMITED
    none = _entry(0, 0, 0, 0)
    return {
        **_filled(cache=raw.get("file", 0)),
        "usage": _entry(limit, usage, 0, 0),
        "swap": _entry(both, usage + number(path, "memory.swap.current"), 0, 0),
        "kernel": none,
        "kernelTCP": none,
        **_filled(raw=dict(sorted(raw.items()))),
    }


def _block_v2(path: str) -> dict[str, Any]:
    sizes: Entries = []
    counts: Entries = []
    operations = (("r", "Read"), ("w", "Write"), ("d", "Discard"))
    for line in text(path, "io.stat").splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        for word in words:
            name, _, value = word.partition("=")
            for letter, operation in operations:
                if name in (f"{letter}bytes", f"{letter}ios"):
                    entry = _filled(major=int(major), minor=int(minor), op=operation, value=int(value))
                    (sizes if name.endswith("bytes") else counts).append(entry)
    return _filled(ioServiceBytesRecursive=sizes, ioServicedRecursive=counts)


def _hugetlb_v2(path: str) -> dict[str, Any]:
    return {
        size: {
            **_filled(usage=number(path, f"hugetlb.{size}.current")),
            "failcnt": dict(pairs(path, f"hugetlb.{size}.events")).get("max", 0),
        }
        for size in _sizes(path, ".current")
    }

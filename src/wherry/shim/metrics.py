"""The figures of a container's cgroups, in the messages that containerd's clients know.

Sources: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from wherry.api.metrics.cgroups.v1 import metrics_pb2 as v1
from wherry.api.metrics.cgroups.v2 import metrics_pb2 as v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

_ROOT = "/sys/fs/cgroup"

#: USER_HZ, which cpuacct.stat counts in.
_NANOSECONDS_PER_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

_MAX_UINT64 = (1 << 64) - 1
_MAX_UINT32 = (1 << 32) - 1

#: memory.stat's names of cgroup v1 that differ from the message's.
_V1_MEMORY_NAMES = {
    "pgpgin": "pg_pg_in",
    "pgpgout": "pg_pg_out",
    "pgfault": "pg_fault",
    "pgmajfault": "pg_maj_fault",
    "hierarchical_memsw_limit": "hierarchical_swap_limit",
}


def cgroup_paths(pid: int) -> dict[str, str]:
    """Return the directories of a process's cgroups by controller; under "" the one of a pure cgroup v2 host.

    Empty if the process is gone.
    """
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    paths: dict[str, str] = {}
    for line in lines:
        _id, controllers, path = line.split(":", 2)
        if not controllers:
            if os.path.exists(os.path.join(_ROOT, "cgroup.controllers")):
                return {"": _ROOT + path}
            continue  # the unified hierarchy of a hybrid host has no controllers that are counted
        for controller in controllers.split(","):
            if not controller.startswith("name="):
                paths[controller] = os.path.join(_ROOT, controller) + path
    return paths


def collect(cgroups: Mapping[str, str]) -> Message:
    """Return the figures of the cgroups that cgroup_paths told. What a kernel does not have stays zero."""
    return _collect_v2(cgroups[""]) if "" in cgroups else _collect_v1(cgroups)


# -- cgroup v1 ------------------------------------------------------------------------------------------------------


def _collect_v1(cgroups: Mapping[str, str]) -> v1.Metrics:
    metrics = v1.Metrics()
    collectors: dict[str, Callable[[v1.Metrics, str], None]] = {
        "pids": _pids_v1,
        "cpuacct": _cpuacct,
        "cpu": _cpu_v1,
        "memory": _memory_v1,
        "blkio": _blkio,
        "hugetlb": _hugetlb_v1,
        "rdma": _rdma,
    }
    for controller, collector in collectors.items():
        if controller in cgroups and os.path.isdir(cgroups[controller]):
            collector(metrics, cgroups[controller])
    return metrics


def _pids_v1(metrics: v1.Metrics, path: str) -> None:
    metrics.pids.current = _number(path, "pids.current")
    metrics.pids.limit = _number(path, "pids.max", maximum=0)


def _cpuacct(metrics: v1.Metrics, path: str) -> None:
    usage = metrics.cpu.usage
    usage.total = _number(path, "cpuacct.usage")
    stat = dict(_pairs(path, "cpuacct.stat"))
    usage.user = stat.get("user", 0) * _NANOSECONDS_PER_TICK
    usage.kernel = stat.get("system", 0) * _NANOSECONDS_PER_TICK
    usage.per_cpu.extend(int(number) for number in _text(path, "cpuacct.usage_percpu").split())


def _cpu_v1(metrics: v1.Metrics, path: str) -> None:
    stat = dict(_pairs(path, "cpu.stat"))
    throttling = metrics.cpu.throttling
    throttling.periods = stat.get("nr_periods", 0)
    throttling.throttled_periods = stat.get("nr_throttled", 0)
    throttling.throttled_time = stat.get("throttled_time", 0)


def _memory_v1(metrics: v1.Metrics, path: str) -> None:
    memory = metrics.memory
    fields = memory.DESCRIPTOR.fields_by_name
    for name, value in _pairs(path, "memory.stat"):
        prefix = "total_" if name.startswith("total_") else ""
        bare = name.removeprefix("total_")
        field = prefix + _V1_MEMORY_NAMES.get(bare, bare)
        if field in fields and fields[field].message_type is None:
            setattr(memory, field, value)
    for entry, module in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernel_tcp", "kmem.tcp.")):
        file = f"memory.{module}"
        if not os.path.exists(os.path.join(path, f"{file}usage_in_bytes")):
            continue
        target = getattr(memory, entry)
        target.usage = _number(path, f"{file}usage_in_bytes")
        target.max = _number(path, f"{file}max_usage_in_bytes")
        target.failcnt = _number(path, f"{file}failcnt")
        target.limit = _number(path, f"{file}limit_in_bytes")
    control = dict(_pairs(path, "memory.oom_control"))
    metrics.memory_oom_control.oom_kill_disable = control.get("oom_kill_disable", 0)
    metrics.memory_oom_control.under_oom = control.get("under_oom", 0)
    metrics.memory_oom_control.oom_kill = control.get("oom_kill", 0)


def _blkio(metrics: v1.Metrics, path: str) -> None:
    metrics.blkio.SetInParent()  # there, though nothing may have been read or written
    # Schedulers that account have the bfq files; the throttle ones are there always.
    for field, files in {
        "io_service_bytes_recursive": ("bfq.io_service_bytes_recursive", "throttle.io_service_bytes"),
        "io_serviced_recursive": ("bfq.io_serviced_recursive", "throttle.io_serviced"),
    }.items():
        for file in files:
            entries = list(_block_entries(path, f"blkio.{file}"))
            if entries:
                getattr(metrics.blkio, field).extend(entries)
                break


def _block_entries(path: str, file: str) -> Iterator[v1.BlkIOEntry]:
    for line in _text(path, file).splitlines():
        words = line.replace(":", " ").split()
        if len(words) != 4:
            continue  # the total
        major, minor, operation, value = words
        device = _device_name(int(major), int(minor))
        yield v1.BlkIOEntry(op=operation, device=device, major=int(major), minor=int(minor), value=int(value))


def _device_name(major: int, minor: int) -> str:
    try:
        with open(f"/sys/dev/block/{major}:{minor}/uevent") as file:
            for line in file:
                if line.startswith("DEVNAME="):
                    return "/dev/" + line[len("DEVNAME=") :].strip()
    except OSError:
        return ""  # a device that was taken out
    return ""


def _hugetlb_v1(metrics: v1.Metrics, path: str) -> None:
    for name in sorted(os.listdir(path)):
        if name.startswith("hugetlb.") and name.endswith(".usage_in_bytes") and ".rsvd." not in name:
            size = name.split(".")[1]
            metrics.hugetlb.add(
                usage=_number(path, name),
                max=_number(path, f"hugetlb.{size}.max_usage_in_bytes"),
                failcnt=_number(path, f"hugetlb.{size}.failcnt"),
                pagesize=size,
            )


# -- cgroup v2 ------------------------------------------------------------------------------------------------------


def _collect_v2(path: str) -> v2.Metrics:
    metrics = v2.Metrics()
    if not os.path.isdir(path):
        return metrics
    metrics.pids.current = _number(path, "pids.current")
    metrics.pids.limit = _number(path, "pids.max", maximum=0)
    _fill(metrics.cpu, dict(_pairs(path, "cpu.stat")))
    _pressure(metrics.cpu.psi, path, "cpu.pressure")
    _memory_v2(metrics, path)
    _io_v2(metrics, path)
    _rdma(metrics, path)
    for name in sorted(os.listdir(path)):
        if name.startswith("hugetlb.") and name.endswith(".current") and ".rsvd." not in name:
            size = name.split(".")[1]
            metrics.hugetlb.add(
                current=_number(path, name),
                max=_number(path, f"hugetlb.{size}.max"),
                pagesize=size,
                failcnt=dict(_pairs(path, f"hugetlb.{size}.events")).get("max", 0),
            )
    return metrics


def _memory_v2(metrics: v2.Metrics, path: str) -> None:
    memory = metrics.memory
    _fill(memory, dict(_pairs(path, "memory.stat")))
    memory.usage = _number(path, "memory.current")
    memory.usage_limit = _number(path, "memory.max")
    memory.max_usage = _number(path, "memory.peak")
    memory.swap_usage = _number(path, "memory.swap.current")
    memory.swap_limit = _number(path, "memory.swap.max")
    memory.swap_max_usage = _number(path, "memory.swap.peak")
    _pressure(memory.psi, path, "memory.pressure")
    _fill(metrics.memory_events, dict(_pairs(path, "memory.events")))


def _io_v2(metrics: v2.Metrics, path: str) -> None:
    for line in _text(path, "io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        entry = metrics.io.usage.add(major=int(major), minor=int(minor))
        for name in ("rbytes", "wbytes", "rios", "wios"):
            setattr(entry, name, int(values.get(name, 0)))
    _pressure(metrics.io.psi, path, "io.pressure")


def _pressure(stats: v2.PSIStats, path: str, file: str) -> None:
    for line in _text(path, file).splitlines():
        kind, *pairs = line.split()
        target = stats.some if kind == "some" else stats.full
        for pair in pairs:
            name, _, value = pair.partition("=")
            setattr(target, name, int(value) if name == "total" else float(value))


def _fill(message: Message, values: Mapping[str, int]) -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in values.items():
        if name in fields:
            setattr(message, name, value)


def _rdma(metrics: v1.Metrics | v2.Metrics, path: str) -> None:
    """The same files in both versions: a line a device, `NAME hca_handle=N hca_object=N`."""
    metrics.rdma.SetInParent()  # there, though there may be no device
    for entries, file in ((metrics.rdma.current, "rdma.current"), (metrics.rdma.limit, "rdma.max")):
        for line in _text(path, file).splitlines():
            device, *pairs = line.split()
            values = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
            entry = entries.add(device=device)
            for name in ("hca_handle", "hca_object"):
                value = values.get(name, "0")
                setattr(entry, f"{name}s", _MAX_UINT32 if value == "max" else int(value))


# -- files ----------------------------------------------------------------------------------------------------------


def _text(path: str, file: str) -> str:
    try:
        with open(os.path.join(path, file)) as opened:
            return opened.read()
    except OSError:
        return ""  # a kernel without it, or a cgroup just removed


def _number(path: str, file: str, maximum: int = _MAX_UINT64) -> int:
    text = _text(path, file).strip()
    if not text:
        return 0
    return maximum if text == "max" else int(text)


def _pairs(path: str, file: str) -> Iterator[tuple[str, int]]:
    for line in _text(path, file).splitlines():
        name, _, value = line.partition(" ")
        if value.lstrip("-").isdigit():
            yield name, int(value)

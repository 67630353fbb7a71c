"""Control groups: where, which resources, and how they are seen inside."""

from __future__ import annotations

from typing import Any

from tests.runc.differential.cases import CGROUP, HOST_ID, MOUNTS, Case, namespaces, user_namespace

_MIB = 2**20
_TOP = "/sys/fs/cgroup"
_NEW = ("pid", "network", "ipc", "uts", "mount")
_WITH_CGROUP = namespaces(*_NEW, "cgroup")


def _mount(*options: str) -> dict[str, Any]:
    return {
        "destination": _TOP,
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", *options],
    }


#: What each version shows of a resource, by the field of the specification. All files are asked in every case, so that
#: a value that goes to a wrong file, or to one too many, is a difference.
_V1 = (
    "memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes"
    " memory/memory.swappiness memory/memory.oom_control memory/memory.use_hierarchy"
    " memory/memory.kmem.limit_in_bytes memory/memory.kmem.tcp.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us"
    " cpu/cpu.cfs_period_us cpu/cpu.idle cpu/cpu.cfs_burst_us cpu/cpu.rt_runtime_us cpuset/cpuset.cpus"
    " cpuset/cpuset.mems pids/pids.max devices/devices.list blkio/blkio.throttle.read_bps_device"
    " blkio/blkio.throttle.write_iops_device blkio/blkio.bfq.weight freezer/freezer.state pids/cgroup.procs"
)
_V2 = (
    "cgroup.procs memory.max memory.high memory.low memory.min memory.swap.max cpu.weight cpu.max cpu.idle"
    " cpuset.cpus cpuset.mems pids.max io.max io.weight io.bfq.weight hugetlb.2MB.max cgroup.controllers"
    " cgroup.subtree_control"
)
_ASKED = tuple(f"read:{_TOP}/{name}" for name in f"{_V1} {_V2}".split())


def _resources(name: str, resources: dict[str, Any], **others: Any) -> Case:
    """A case that has the cgroup's files visible in the container."""
    everything = {"devices": [{"allow": False, "access": "rwm"}], **resources}
    changes = {
        "linux.resources": everything,
        "linux.namespaces": _WITH_CGROUP,
        "mounts+": [_mount("ro")],
        **others.pop("changes", {}),
    }
    return Case(f"cgroups/{name}", changes, _ASKED, **others)


_DEVICES = "null zero full random urandom tty ptmx fuse kvm"
_OPEN = (*(f"open:/dev/{name}" for name in _DEVICES.split()), "mknod:/dev/made", "mknod:/tmp/made")
_MKNOD = {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}


def _rules(name: str, *rules: dict[str, Any] | None, **others: Any) -> Case:
    changes = {
        "linux.resources": {"devices": list(rules)},
        "process.capabilities": _MKNOD,
        "linux.namespaces": _WITH_CGROUP,
        "mounts+": [_mount("ro")],
        **others.pop("changes", {}),
    }
    return Case(f"device-rules/{name}", changes, (*_OPEN, f"read:{_TOP}/devices/devices.list"), **others)


def _rule(
    allow: bool, access: str = "rwm", type: str = "", major: int | None = None, minor: int | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"allow": allow, "access": access}
    rule |= {"type": type} if type else {}
    rule |= {"major": major} if major is not None else {}
    return rule | ({"minor": minor} if minor is not None else {})


_TREE = (f"tree:{_TOP}", f"create:{_TOP}", f"write:{_TOP}/pids/pids.max", f"write:{_TOP}/cgroup.procs")

CASES = [
    _resources("none", {}),
    _resources("memory-limit", {"memory": {"limit": 64 * _MIB}}),
    _resources("memory-swap", {"memory": {"limit": 64 * _MIB, "swap": 128 * _MIB}}),
    _resources("memory-swap-unlimited", {"memory": {"limit": 64 * _MIB, "swap": -1}}),
    _resources("memory-unlimited", {"memory": {"limit": -1}}),
    _resources("memory-reservation", {"memory": {"reservation": 32 * _MIB}}),
    _resources(
        "memory-all",
        {
            "memory": {
                "limit": 64 * _MIB,
                "reservation": 32 * _MIB,
                "swap": 64 * _MIB,
                "swappiness": 10,
                "disableOOMKiller": True,
            }
        },
        cgroups=1,
    ),
    _resources("memory-swappiness", {"memory": {"swappiness": 0}}, cgroups=1),
    _resources("memory-not-a-page", {"memory": {"limit": 64 * _MIB + 1}}),
    _resources("memory-zero", {"memory": {"limit": 0}}),
    _resources("memory-kernel", {"memory": {"kernel": 32 * _MIB}}),
    _resources("memory-kernel-tcp", {"memory": {"kernelTCP": 32 * _MIB}}, cgroups=1),
    _resources("memory-check-before-update", {"memory": {"limit": 64 * _MIB, "checkBeforeUpdate": True}}),
    _resources("memory-too-small", {"memory": {"limit": 4096}}, fails=True),
    _resources("memory-swap-below-limit", {"memory": {"limit": 64 * _MIB, "swap": _MIB}}, fails=True),
    _resources("memory-swap-alone", {"memory": {"swap": 64 * _MIB}}, fails=True),
    _resources("cpu-shares", {"cpu": {"shares": 512}}),
    _resources("cpu-shares-least", {"cpu": {"shares": 1}}, fails=True, text=True),
    _resources("cpu-shares-most", {"cpu": {"shares": 262144}}),
    _resources("cpu-shares-beyond", {"cpu": {"shares": 262145}}, fails=True, cgroups=1),
    _resources("cpu-quota", {"cpu": {"quota": 50000, "period": 100000}}),
    _resources("cpu-quota-alone", {"cpu": {"quota": 30000}}),
    _resources("cpu-period-alone", {"cpu": {"period": 50000}}),
    _resources("cpu-quota-unlimited", {"cpu": {"quota": -1, "period": 50000}}),
    _resources("cpu-quota-too-small", {"cpu": {"quota": 10, "period": 100000}}, fails=True),
    _resources("cpu-set", {"cpu": {"cpus": "0", "mems": "0"}}),
    _resources("cpu-set-range", {"cpu": {"cpus": "0-1"}}, fails=None),
    _resources("cpu-set-list", {"cpu": {"cpus": "1,0"}}, fails=None),
    _resources("cpu-set-beyond", {"cpu": {"cpus": "0-1000"}}, fails=True),
    _resources("cpu-set-word", {"cpu": {"cpus": "word"}}, fails=True),
    _resources("cpu-all", {"cpu": {"shares": 100, "quota": 20000, "period": 50000, "cpus": "0", "mems": "0"}}),
    _resources("pids", {"pids": {"limit": 50}}),
    _resources("pids-unlimited", {"pids": {"limit": -1}}),
    _resources("pids-zero", {"pids": {"limit": 0}}),
    _resources("pids-one", {"pids": {"limit": 1}}),
    _resources(
        "block-throttle",
        {
            "blockIO": {
                "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": _MIB}],
                "throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 100}],
            }
        },
        fails=None,
    ),
    _resources("block-weight", {"blockIO": {"weight": 100}}),
    _resources(
        "hugepages", {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * _MIB}]}, fails=True, text=True, cgroups=1
    ),
    _resources(
        "hugepages-unknown", {"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}, fails=True, text=True, cgroups=1
    ),
    _resources("network-class", {"network": {"classID": 1048577}}, fails=True, text=True, cgroups=1),
    _resources(
        "network-priorities",
        {"network": {"priorities": [{"name": "lo", "priority": 5}]}},
        fails=True,
        text=True,
        cgroups=1,
    ),
    _resources("unified", {"unified": {"memory.high": "100000000", "pids.max": "77"}}, cgroups=2),
    _resources("unified-on-v1", {"unified": {"memory.high": "100000000"}}, cgroups=1, fails=True),
    _resources("unified-unknown", {"unified": {"no.such.file": "1"}}, cgroups=2, fails=True),
    _resources("rdma", {"rdma": {"mlx5_1": {"hcaHandles": 3}}}, fails=True, text=True, cgroups=1),
    _resources(
        "all",
        {
            "memory": {"limit": 64 * _MIB, "swap": 64 * _MIB},
            "cpu": {"shares": 100, "quota": 20000, "period": 50000, "cpus": "0"},
            "pids": {"limit": 100},
        },
    ),
    Case("cgroups/no-resources", {"linux.resources": None}, _ASKED),
    Case("cgroups/path-nested", {"linux.cgroupsPath": f"/{CGROUP}/deep/er/c"}, ("peers:9",)),
    Case("cgroups/path-relative", {"linux.cgroupsPath": f"{CGROUP}/c"}),
    Case("cgroups/path-dots", {"linux.cgroupsPath": f"/{CGROUP}/x/../y/./z//c"}),
    Case("cgroups/path-upwards", {"linux.cgroupsPath": f"/../../{CGROUP}/c"}),
    Case("cgroups/path-of-default", {"linux.cgroupsPath": None}),
    Case("cgroups/path-empty", {"linux.cgroupsPath": ""}),
    Case("cgroups/path-like-systemd", {"linux.cgroupsPath": f"/{CGROUP}/system.slice:runc:c"}),
    *(
        Case(
            f"cgroups/mount-{mode}{'-namespace' if own else ''}",
            {"mounts+": [_mount(mode)], "linux.namespaces": namespaces(*_NEW, *own)},
            _TREE,
        )
        for mode in ("ro", "rw")
        for own in ((), ("cgroup",))
    ),
    Case(
        "cgroups/mount-user-namespace",
        user_namespace(**{"linux.namespaces": namespaces(*_NEW, "user", "cgroup"), "mounts+": [_mount("ro")]}),
        _TREE,
        owner=HOST_ID,
    ),
    Case("cgroups/mount-v2-type", {"mounts+": [{**_mount("ro"), "type": "cgroup2"}]}, (f"stat:{_TOP}/cgroup.procs",)),
    Case(
        "cgroups/mount-without-sys",
        {
            "mounts": [*(MOUNTS[name] for name in ("proc", "dev", "pts")), _mount("ro")],
            "linux.namespaces": namespaces(*_NEW, "cgroup"),
        },
        _TREE,
    ),
    Case("cgroups/mount-elsewhere", {"mounts+": [{**_mount("rw"), "destination": "/groups"}]}, ("tree:/groups",)),
    _rules("none"),
    Case("device-rules/absent", {"linux.resources": {}, "process.capabilities": _MKNOD}, _OPEN),
    _rules("deny-all", _rule(False)),
    _rules("allow-all", _rule(True)),
    _rules("allow-all-of-type-a", _rule(True, type="a")),
    _rules("deny-then-fuse", _rule(False), _rule(True, "rwm", "c", 10, 229)),
    _rules("deny-then-read-kvm", _rule(False), _rule(True, "r", "c", 10, 232)),
    _rules("deny-null", _rule(False), _rule(False, "rwm", "c", 1, 3)),
    _rules("allow-then-deny-zero", _rule(True), _rule(False, "w", "c", 1, 5)),
    _rules("any-minor", _rule(False), _rule(True, "rw", "c", 10)),
    _rules("minor-minus-one", _rule(False), _rule(True, "rw", "c", 10, -1)),
    _rules("any-block", _rule(False), _rule(True, "m", "b")),
    _rules("any-major", _rule(False), _rule(True, "m", "c", None, 3)),
    _rules("access-order", _rule(False), _rule(True, "mwr", "c", 10, 229)),
    _rules("access-empty", _rule(False), _rule(True, "", "c", 10, 229), fails=True, text=True),
    _rules(
        "access-absent", _rule(False), {"allow": True, "type": "c", "major": 10, "minor": 229}, fails=True, text=True
    ),
    _rules("access-unknown", _rule(False), _rule(True, "x", "c", 10, 229), fails=None),
    _rules("type-unknown", _rule(False), _rule(True, "r", "z", 10, 229), fails=True),
    _rules(
        "overlap",
        _rule(False),
        _rule(True, "rwm", "c", 10),
        _rule(False, "w", "c", 10, 229),
        fails=True,
        text=True,
        cgroups=1,
    ),
    _rules("split", _rule(False), _rule(True, "r", "c", 10, 229), _rule(True, "w", "c", 10, 229)),
    _rules("removed-again", _rule(False), _rule(True, "rw", "c", 10, 229), _rule(False, "rw", "c", 10, 229)),
]

"""The hierarchies of cgroups that are mounted, and where this process is in them. cgroups(7), proc(5)."""

from __future__ import annotations

import os

from wherry.errors import Unknown

#: Where cgroup v2 alone, or v1's hierarchies side by side, are mounted.
ROOT = "/sys/fs/cgroup"

#: cgroup v1's, in the order that their limits are set in: what the others hang on comes first.
CONTROLLERS = (
    "devices",
    "cpuset",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "misc",
    "name=systemd",
)


class Hierarchies:
    """What is mounted."""

    __slots__ = ("by_controller", "unified", "version")

    def __init__(self, version: int, by_controller: dict[str, tuple[str, str]], unified: str) -> None:
        #: 2 if ROOT is cgroup v2's, and so all controllers are there.
        self.version = version
        #: cgroup v1's mount points, and the cgroup that is at its top, by controller, in the order of CONTROLLERS.
        self.by_controller = by_controller
        #: Where cgroup v2 is mounted: ROOT, beside v1's in a hybrid system, or "".
        self.unified = unified


_found: Hierarchies | None = None


def hierarchies() -> Hierarchies:
    """Return what is mounted, found once. Unknown if nothing is."""
    global _found
    if _found is None:
        with open("/proc/self/mountinfo", "rb", buffering=0) as file:
            _found = parse_mounts(file.readall().decode(errors="surrogateescape"))
    return _found


def parse_mounts(mountinfo: str) -> Hierarchies:
    """Return the hierarchies that a /proc/[pid]/mountinfo tells of. Unknown if it tells of none."""
    unified = ""
    mounted: dict[str, tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        if " - cgroup" not in line:
            continue
        fields, _, tail = line.partition(" - ")
        kind, _, rest = tail.partition(" ")
        _id, _parent, _device, top, point, *_options = fields.split(" ")
        point = _unescaped(point)
        if kind == "cgroup2":
            if point == ROOT:
                return Hierarchies(2, {}, ROOT)
            if not unified or os.path.dirname(point) == ROOT:
                unified = point
        elif kind == "cgroup":
            for controller in rest.rpartition(" ")[2].split(","):
                # One that is bound to other places as well is known by its usual one.
                if controller not in mounted or os.path.dirname(mounted[controller][0]) != ROOT:
                    mounted[controller] = (point, _unescaped(top))
    if not mounted:
        raise Unknown("no cgroup mount found in mountinfo")
    return Hierarchies(1, {name: mounted[name] for name in CONTROLLERS if name in mounted}, unified)


def _unescaped(field: str) -> str:
    """proc(5): space, tab, newline and backslash are in octal."""
    return field if "\\" not in field else field.encode("latin-1", "surrogateescape").decode("unicode_escape")


def own_cgroups(pid: int | str = "self") -> dict[str, str]:
    """Return where a process is: a path in the hierarchy, by controller; "" for that of cgroup v2. OSError."""
    found = {}
    with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
        lines = file.readall().decode(errors="surrogateescape").splitlines()
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def clean(path: str) -> str:
    """Return a path without "." and "..", which leads no higher than where it starts."""
    if not path:
        return ""
    cleaned = os.path.normpath(f"/{path}")
    if cleaned.startswith("//"):
        cleaned = cleaned[1:]
    return cleaned if path.startswith("/") else cleaned[1:]


def in_user_namespace() -> bool:
    """Tell whether this process is in one but the first, which maps all ids onto themselves. user_namespaces(7)."""
    with open("/proc/self/uid_map", "rb", buffering=0) as file:
        return file.readall().split() != [b"0", b"0", b"4294967295"]

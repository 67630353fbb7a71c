"""Namespaces: each left out, made, joined; identity maps; names; sysctls of a namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runc.differential.cases import (
    HOST_ID,
    IDS,
    MOUNTS,
    NAMESPACES,
    USER_NAMESPACES,
    Case,
    bind,
    namespaces,
    user_namespace,
)

_ALL = ("pid", "network", "ipc", "uts", "mount")
_FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid", "cgroup": "cgroup"}


def _without(*left_out: str) -> dict[str, Any]:
    changes: dict[str, Any] = {"linux.namespaces": namespaces(*(kind for kind in _ALL if kind not in left_out))}
    if "uts" in left_out:
        changes["hostname"] = None
    if "ipc" in left_out:
        changes["mounts"] = [mount for name, mount in MOUNTS.items() if name != "mqueue"]
    return changes


def _joined(*kinds: str) -> dict[str, Any]:
    paths = {kind: f"{NAMESPACES}/{_FILES[kind]}" for kind in kinds}
    return {"linux.namespaces": namespaces(*(kind for kind in _ALL if kind not in kinds), **paths)}


def _in_user_namespace(*others: str) -> dict[str, Any]:
    """Join the user namespace, and some that belong to it. runc 1.1 wants to be told its maps again."""
    new = [kind for kind in _ALL if kind not in others]
    paths = {kind: f"{USER_NAMESPACES}/{_FILES[kind]}" for kind in others}
    maps = _maps((0, HOST_ID, IDS))
    return {
        "linux.namespaces": namespaces(*new, user=f"{USER_NAMESPACES}/user", **paths),
        "linux.uidMappings": maps,
        "linux.gidMappings": maps,
    }


def _as_on_host(name: str) -> dict[str, str]:
    """Return the value that a sysctl has: a runtime that sets it by mistake changes nothing."""
    return {name: Path("/proc/sys", name.replace(".", "/")).read_text().strip()}


def _maps(*entries: tuple[int, int, int]) -> list[dict[str, int]]:
    return [dict(zip(("containerID", "hostID", "size"), entry, strict=True)) for entry in entries]


CASES = [
    Case("namespaces/base"),
    *(Case(f"namespaces/no-{kind}", _without(kind)) for kind in ("pid", "network", "ipc", "uts")),
    Case("namespaces/mount-only", _without("pid", "network", "ipc", "uts")),
    *(Case(f"namespaces/joined-{kind}", _joined(kind)) for kind in _FILES),
    Case("namespaces/joined-all", _joined(*_FILES)),
    Case("namespaces/joined-uts-keeps-hostname", {**_joined("uts"), "hostname": None}),
    Case(
        "namespaces/host-by-path",
        {"linux.namespaces": namespaces("pid", "mount", "ipc", "uts", network="/proc/self/ns/net")},
    ),
    Case("namespaces/cgroup", {"linux.namespaces+": namespaces("cgroup")}),
    Case("namespaces/order", {"linux.namespaces": namespaces("mount", "uts", "cgroup", "ipc", "network", "pid")}),
    Case("namespaces/no-hostname", {"hostname": None}),
    Case("namespaces/empty-hostname", {"hostname": ""}),
    Case("namespaces/long-hostname", {"hostname": "h" * 64}),
    Case("namespaces/hostname-too-long", {"hostname": "h" * 65}, fails=True),
    Case("namespaces/user", user_namespace(), owner=HOST_ID),
    Case(
        "namespaces/user-and-cgroup",
        user_namespace(**{"linux.namespaces": namespaces(*_ALL, "user", "cgroup")}),
        owner=HOST_ID,
    ),
    Case("namespaces/user-first", user_namespace(**{"linux.namespaces": namespaces("user", *_ALL)}), owner=HOST_ID),
    Case(
        "namespaces/user-process-user",
        user_namespace(**{"process.user": {"uid": 1000, "gid": 1000, "additionalGids": [1000, 5, 10]}}),
        owner=HOST_ID,
    ),
    Case(
        "namespaces/user-several-maps",
        user_namespace(
            **{
                "linux.uidMappings": _maps((0, HOST_ID, 1000), (1000, 300000, 1), (1001, HOST_ID + 1000, 2000)),
                "linux.gidMappings": _maps((0, HOST_ID, 500), (500, 400000, 30)),
            }
        ),
        owner=HOST_ID,
    ),
    Case(
        "namespaces/user-to-root",
        user_namespace(
            **{
                "linux.uidMappings": _maps((0, 0, 1)),
                "linux.gidMappings": _maps((0, 0, 1)),
                "mounts": [mount for name, mount in MOUNTS.items() if name != "pts"],
            }
        ),
    ),
    Case(
        "namespaces/user-identity",
        user_namespace(
            **{"linux.uidMappings": _maps((0, 0, 4294967295)), "linux.gidMappings": _maps((0, 0, 4294967295))}
        ),
    ),
    Case(
        "namespaces/user-root-unmapped",
        user_namespace(
            **{
                "linux.uidMappings": _maps((1000, HOST_ID, 10)),
                "linux.gidMappings": _maps((1000, HOST_ID, 10)),
                "process.user": {"uid": 1000, "gid": 1000},
            }
        ),
        owner=HOST_ID,
        fails=True,
    ),
    Case(
        "namespaces/user-all-capabilities",
        user_namespace(
            **{
                "process.capabilities": {
                    kind: ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD"]
                    for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
                }
            }
        ),
        ("mount:/tmp", "mknod:/tmp/null"),
        owner=HOST_ID,
    ),
    Case(
        "namespaces/user-binds",
        user_namespace(**{"mounts+": [bind("data", "/data"), bind("file", "/new/file", "ro")]}),
        ("create:/data", "tree:/data"),
        files={"data/": "", "file": "text"},
        owner=HOST_ID,
    ),
    Case(
        "namespaces/user-and-host-network",
        user_namespace(
            **{
                "linux.namespaces": namespaces("pid", "ipc", "uts", "mount", "user"),
                "mounts": [mount for name, mount in MOUNTS.items() if name != "sys"],
            }
        ),
        owner=HOST_ID,
    ),
    Case("namespaces/joined-user", _in_user_namespace(), owner=HOST_ID),
    Case("namespaces/joined-user-and-its-own", _in_user_namespace("network", "ipc", "uts"), owner=HOST_ID),
    Case(
        "namespaces/joined-user-without-maps",
        {**_in_user_namespace("network", "ipc", "uts"), "linux.uidMappings": None, "linux.gidMappings": None},
        owner=HOST_ID,
        peer="",
        expect={"probe.namespaces.user": "joined with user", "probe.uid": [0, 0, 0, 0], "probe.namespaces.mnt": "new"},
    ),
    Case("sysctl/network", {"linux.sysctl": {"net.ipv4.ip_forward": "1"}}, ("read:/proc/sys/net/ipv4/ip_forward",)),
    Case("sysctl/slashes", {"linux.sysctl": {"net/ipv4/ip_forward": "1"}}, ("read:/proc/sys/net/ipv4/ip_forward",)),
    Case(
        "sysctl/interface",
        {"linux.sysctl": {"net.ipv4.conf.lo.forwarding": "1", "net.ipv4.conf.default.rp_filter": "2"}},
        ("read:/proc/sys/net/ipv4/conf/lo/forwarding", "read:/proc/sys/net/ipv4/conf/default/rp_filter"),
    ),
    Case(
        "sysctl/port-and-range",
        {"linux.sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 1000"}},
        ("read:/proc/sys/net/ipv4/ip_unprivileged_port_start", "read:/proc/sys/net/ipv4/ping_group_range"),
    ),
    Case(
        "sysctl/ipc",
        {
            "linux.sysctl": {
                "kernel.msgmax": "9000",
                "kernel.shmmni": "100",
                "kernel.sem": "10 20 30 40",
                "fs.mqueue.msg_max": "20",
            }
        },
        (
            "read:/proc/sys/kernel/msgmax",
            "read:/proc/sys/kernel/shmmni",
            "read:/proc/sys/kernel/sem",
            "read:/proc/sys/fs/mqueue/msg_max",
        ),
    ),
    Case(
        "sysctl/domainname",
        {"linux.sysctl": {"kernel.domainname": "example.org"}},
        ("read:/proc/sys/kernel/domainname",),
    ),
    Case("sysctl/hostname", {"linux.sysctl": {"kernel.hostname": "other"}}, fails=True, text=True),
    Case("sysctl/of-the-host", {"linux.sysctl": _as_on_host("vm.swappiness")}, fails=True, text=True),
    Case("sysctl/unknown", {"linux.sysctl": {"net.ipv4.no_such": "1"}}, fails=True, text=True),
    Case("sysctl/refused-value", {"linux.sysctl": {"net.ipv4.ip_forward": "word"}}, fails=True, text=True),
    Case(
        "sysctl/host-network",
        {**_without("network"), "linux.sysctl": _as_on_host("net.ipv4.ip_forward")},
        fails=True,
        text=True,
    ),
    Case("sysctl/host-ipc", {**_without("ipc"), "linux.sysctl": _as_on_host("kernel.shmmax")}, fails=True, text=True),
    Case(
        "sysctl/host-uts", {**_without("uts"), "linux.sysctl": _as_on_host("kernel.domainname")}, fails=True, text=True
    ),
    Case(
        "sysctl/host-by-path",
        {
            "linux.namespaces": namespaces("pid", "mount", "ipc", "uts", network="/proc/self/ns/net"),
            "linux.sysctl": _as_on_host("net.ipv4.ip_forward"),
        },
        fails=True,
        text=True,
    ),
    Case(
        "sysctl/joined-network",
        {**_joined("network"), "linux.sysctl": {"net.ipv4.ip_default_ttl": "63"}},
        ("read:/proc/sys/net/ipv4/ip_default_ttl",),
    ),
    Case(
        "sysctl/user-namespace",
        user_namespace(**{"linux.sysctl": {"net.ipv4.ip_forward": "1"}}),
        ("read:/proc/sys/net/ipv4/ip_forward",),
        owner=HOST_ID,
    ),
]

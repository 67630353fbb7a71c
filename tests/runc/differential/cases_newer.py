"""What Debian's runc 1.1 does not know: compared with crun, or with what the kernel has to show."""

from __future__ import annotations

import os
from typing import Any

from tests.runc.differential.cases import HOST_ID, Case, bind, namespaces, user_namespace

_CPUS = sorted(os.sched_getaffinity(0))
_NEW = ("pid", "network", "ipc", "uts", "mount")
_NICE = {kind: ["CAP_SYS_NICE"] for kind in ("bounding", "effective", "permitted")}


def _kernel(name: str, changes: dict[str, Any], expect: dict[str, Any], *asked: str, **others: Any) -> Case:
    """A case that no runtime here knows: the probe has to find what was asked for."""
    return Case(
        f"newer/{name}",
        changes,
        asked,
        peer="",
        expect={f"probe.{field}": value for field, value in expect.items()},
        **others,
    )


_IDS = [{"containerID": 0, "hostID": HOST_ID, "size": 65536}]


def _id_mapped(*options: str, **fields: Any) -> dict[str, Any]:
    return {"mounts+": [bind("data", "/mnt", *options, **fields)]}


_OWNED = {"asked.stat:/mnt/file.uid": HOST_ID, "asked.stat:/mnt/file.gid": HOST_ID, "asked.stat:/mnt.uid": HOST_ID}
_FILES: dict[str, str] = {"data/": "", "data/file": "text"}

CASES = [
    _kernel("time-namespace", {"linux.namespaces": namespaces(*_NEW, "time")}, {"namespaces.time": "new"}),
    _kernel(
        "time-offsets",
        {
            "linux.namespaces": namespaces(*_NEW, "time"),
            "linux.timeOffsets": {"monotonic": {"secs": 172800, "nanosecs": 5}, "boottime": {"secs": 600}},
        },
        {
            "namespaces.time": "new",
            "files.timens_offsets.text": "monotonic      172800         5\nboottime          600         0\n",
        },
    ),
    _kernel(
        "time-joined", {"linux.namespaces": namespaces(*_NEW, time="@NAMESPACES@/time")}, {"namespaces.time": "joined"}
    ),
    _kernel("time-offsets-without-namespace", {"linux.timeOffsets": {"monotonic": {"secs": 1}}}, {}, fails=True),
    _kernel("domainname", {"domainname": "example.org"}, {"domainname": "example.org", "hostname": "probed"}),
    _kernel("domainname-too-long", {"domainname": "d" * 65}, {}, fails=True),
    _kernel(
        "domainname-without-uts",
        {"linux.namespaces": namespaces("pid", "network", "ipc", "mount"), "hostname": None, "domainname": "x"},
        {},
        fails=True,
    ),
    _kernel("personality-linux32", {"linux.personality": {"domain": "LINUX32"}}, {"process.personality": 8}),
    _kernel("personality-linux", {"linux.personality": {"domain": "LINUX"}}, {"process.personality": 0}),
    _kernel("personality-unknown", {"linux.personality": {"domain": "PLAN9"}}, {}, fails=True),
    Case("newer/personality-as-crun", {"linux.personality": {"domain": "LINUX32"}}, peer="crun", only="personality"),
    _kernel(
        "io-priority-idle",
        {"process.ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}},
        {"scheduling.io_class": 3},
    ),
    _kernel(
        "io-priority-best-effort",
        {"process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}},
        {"scheduling.io_class": 2, "scheduling.io_level": 6},
    ),
    _kernel(
        "io-priority-unknown",
        {"process.ioPriority": {"class": "IOPRIO_CLASS_NONE_SUCH", "priority": 0}},
        {},
        fails=True,
    ),
    _kernel(
        "scheduler-batch",
        {"process.scheduler": {"policy": "SCHED_BATCH", "nice": 5}},
        {"scheduling.policy": 3, "scheduling.nice": 5},
    ),
    _kernel("scheduler-idle", {"process.scheduler": {"policy": "SCHED_IDLE"}}, {"scheduling.policy": 5}),
    _kernel(
        "scheduler-other",
        {"process.scheduler": {"policy": "SCHED_OTHER", "nice": 19}},
        {"scheduling.policy": 0, "scheduling.nice": 19},
    ),
    _kernel(
        "scheduler-reset",
        {"process.scheduler": {"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}},
        {"scheduling.policy": 3, "scheduling.flags": 1},
    ),
    _kernel("scheduler-unknown", {"process.scheduler": {"policy": "SCHED_NONE"}}, {}, fails=True),
    _kernel(
        "scheduler-real-time",
        {"process.scheduler": {"policy": "SCHED_FIFO", "priority": 10}, "process.capabilities": _NICE},
        {"scheduling.policy": 1, "scheduling.priority": 10},
        cgroups=2,  # those of v1 have no real time unless all above them give it
    ),
    _kernel(
        "cpu-affinity-final",
        {"process.execCPUAffinity": {"initial": str(_CPUS[0]), "final": str(_CPUS[-1])}},
        {"scheduling.cpus": _CPUS},
    ),
    _kernel(
        "cpu-affinity-exec",
        {},
        {"scheduling.cpus": _CPUS[-1:]},
        how="exec",
        process={"execCPUAffinity": {"initial": str(_CPUS[0]), "final": str(_CPUS[-1])}},
    ),
    _kernel(
        "cpu-affinity-exec-initial",
        {},
        {"scheduling.cpus": _CPUS[:1]},
        how="exec",
        process={"execCPUAffinity": {"initial": str(_CPUS[0])}},
    ),
    _kernel("cpu-affinity-bad", {}, {}, how="exec", process={"execCPUAffinity": {"initial": "word"}}, fails=True),
    _kernel(
        "id-mapped", _id_mapped(uidMappings=_IDS, gidMappings=_IDS), _OWNED, "stat:/mnt/file", "stat:/mnt", files=_FILES
    ),
    _kernel(
        "id-mapped-recursive",
        _id_mapped("rbind", "ridmap", uidMappings=_IDS, gidMappings=_IDS),
        _OWNED,
        "stat:/mnt/file",
        "stat:/mnt",
        files=_FILES,
    ),
    _kernel(
        "id-mapped-read-only",
        _id_mapped("ro", uidMappings=_IDS, gidMappings=_IDS),
        {**_OWNED, "asked.create:/mnt": "EROFS"},
        "stat:/mnt/file",
        "stat:/mnt",
        "create:/mnt",
        files=_FILES,
    ),
    _kernel(
        "id-mapped-as-container",
        user_namespace(**_id_mapped("idmap")),
        {"asked.stat:/mnt/file.uid": 0, "asked.stat:/mnt/file.gid": 0, "asked.create:/mnt": ""},
        "stat:/mnt/file",
        "create:/mnt",
        files=_FILES,
        owner=HOST_ID,
    ),
    _kernel("id-mapped-without-maps", _id_mapped("idmap"), {}, files=_FILES, fails=True),
    _kernel("id-mapped-one-map", _id_mapped(uidMappings=_IDS), {}, files=_FILES, fails=True),
    _kernel(
        "no-symbolic-links",
        {"mounts+": [bind("data", "/mnt", "nosymfollow")]},
        {"asked.read:/mnt/link.error": "ELOOP"},
        "read:/mnt/link",
        files={**_FILES, "data/link": "-> file"},
    ),
    _kernel(
        "source-file-type",
        {"mounts+": [{"destination": "/mnt", "source": "@DIR@/data", "options": ["bind"]}]},
        {"asked.stat:/mnt/file.size": 4},
        "stat:/mnt/file",
        files=_FILES,
    ),
    Case(
        "newer/umask-as-crun",
        {"process.user": {"uid": 1, "gid": 2, "umask": 0o26}},
        peer="crun",
        only=r"probe\.(umask|uid|gid|groups)",
    ),
    Case(
        "newer/capabilities-as-crun",
        {
            "process.capabilities": {
                kind: ["CAP_KILL", "CAP_CHOWN"]
                for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
            }
        },
        peer="crun",
        only=r"probe\.(capabilities|status\.Cap)",
    ),
    Case(
        "newer/limits-as-crun",
        {"process.rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]},
        peer="crun",
        only=r"probe\.limits\.NOFILE",
    ),
    Case(
        "newer/devices-as-crun",
        {},
        ("open:/dev/null", "open:/dev/full"),
        peer="crun",
        only=r"probe\.(dev\./dev/(null|zero|full|random|urandom|tty|fd|std.*|ptmx)|asked)",
    ),
]

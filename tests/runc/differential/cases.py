"""What a case of a differential test is: changes to one specification, and what is asked inside the container."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Places in the strings of a case, replaced when it runs: the bundle, the cgroup above the container's, the container's
#: id, and the directories (below /proc) of joinable namespaces: of the host's user namespace, and of one with maps.
DIR, CGROUP, ID, NAMESPACES, USER_NAMESPACES = "@DIR@", "@CGROUP@", "@ID@", "@NAMESPACES@", "@USER_NAMESPACES@"

#: The first host id of the user namespaces here, and how many there are.
HOST_ID, IDS = 100000, 65536

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]

MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats"
    " /proc/sched_debug /proc/scsi /sys/firmware"
).split()
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

#: What the base specification mounts, by the last part of the destination.
MOUNTS: dict[str, dict[str, Any]] = {
    "proc": {"destination": "/proc", "type": "proc", "source": "proc"},
    "dev": {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    "pts": {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    "shm": {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    "mqueue": {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
    "sys": {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
}


@dataclass(frozen=True)
class Case:
    """One configuration, and how it is compared.

    `changes` has the fields of config.json by dotted path: a value replaces the field, None removes it, and a list
    under a path that ends in `+` is appended. `asked` are questions to the probe (tests/probe/probe.c), unless the
    changes name other arguments. `files` are made in the bundle before: content by path, a directory where the path
    ends in `/`, a symbolic link where the content begins with `-> `, nothing but a removal where the content is None.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    files: Mapping[str, str | None] = field(default_factory=dict)
    #: Of the runtime, and of its `run`, `create` or `exec`.
    global_flags: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    #: run; foreground: run on a terminal; console: create with a console socket; create: with state looked at;
    #: exec: `process` in a container that waits; exec-console: the same on a terminal.
    how: str = "run"
    process: Mapping[str, Any] = field(default_factory=dict)
    #: The runtime that it is compared with: runc, crun, or none.
    peer: str = "runc"
    #: A regular expression of the fields that are compared with the peer's.
    only: str = ""
    #: What has to be in our report, by its field.
    expect: Mapping[str, Any] = field(default_factory=dict)
    #: What is around a run: made before, undone after.
    around: Callable[[Path], AbstractContextManager[None]] | None = None
    #: The host's uid and gid of the root file system.
    owner: int = 0
    #: In place of config.json.
    config: bytes | None = None
    #: Whether the container must not come to be, None for as the peer's; the peer's error has to be met in words as
    #: well if `text`.
    fails: bool | None = False
    text: bool = False
    #: The version of cgroups that it is about; 0 for any.
    cgroups: int = 0


def base(asked: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the specification that cases change: about what `runc spec` makes."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", *asked],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "probed",
        "mounts": [copy.deepcopy(mount) for mount in MOUNTS.values()],
        "linux": {
            "cgroupsPath": f"/{CGROUP}/c",
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }


def changed(document: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a case's changes to a document and return it."""
    for path, value in changes.items():
        *parents, last = path.rstrip("+").split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None:
            place.pop(last, None)
        elif path.endswith("+"):
            place[last] = [*place.get(last, []), *copy.deepcopy(value)]
        else:
            place[last] = copy.deepcopy(value)
    return document


def namespaces(*kinds: str, **paths: str) -> list[dict[str, str]]:
    """Return namespaces to make anew, and others to join by a path."""
    return [{"type": kind} for kind in kinds] + [{"type": kind, "path": path} for kind, path in paths.items()]


def alike(sets: Iterable[str], capabilities: Iterable[str]) -> dict[str, list[str]]:
    """Return the capability sets named, each with the same capabilities."""
    return {kind: list(capabilities) for kind in sets}


def user_namespace(**changes: Any) -> dict[str, Any]:
    """Return the changes that give a container a user namespace of its own; `owner` has to be HOST_ID."""
    maps = [{"containerID": 0, "hostID": HOST_ID, "size": IDS}]
    return {
        "linux.namespaces+": [{"type": "user"}],
        "linux.uidMappings": maps,
        "linux.gidMappings": maps,
        **changes,
    }


def bind(source: str, destination: str, *options: str, **others: Any) -> dict[str, Any]:
    """Return a bind mount of something in the bundle."""
    flags = list(options) if {"bind", "rbind"} & set(options) else ["bind", *options]
    return {"destination": destination, "type": "bind", "source": f"{DIR}/{source}", "options": flags, **others}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}

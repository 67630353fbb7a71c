"""`wherry-runc spec`: a config.json to begin with, the same as runc's."""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call

COMMAND = Command(
    "write a config.json to begin with",
    "",
    "Write a config.json for a container that runs sh in a terminal, with the directory rootfs as its root. Edit it:\n"
    "`process.args` is the program and its arguments, `process.terminal` whether it has a terminal.\n\n"
    "With --rootless the container needs no privileges: its root is the calling user.",
    (
        Flag("bundle", "the directory to write it in, here by default", short="b"),
        Flag("rootless", "one for a container without privileges", SWITCH),
    ),
    least=0,
    most=0,
)

_FILE = "config.json"

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")
_MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /sys/firmware /proc/scsi"
)
_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"


def run(call: Call) -> int:
    bundle, rootless = call.values.text("bundle"), call.values.switch("rootless")
    if bundle:
        try:
            os.chdir(bundle)
        except OSError as error:
            raise Unknown(f"chdir {bundle}: {(error.strerror or '').lower()}") from None
    if os.path.lexists(_FILE):
        raise Unknown(f"File {_FILE} exists. Remove it first")
    from wherry.runc.command.go_json import encode

    with open(_FILE, "x") as file:
        file.write(encode(example(os.geteuid(), os.getegid()) if rootless else example(), indent="\t"))
    return 0


def example(uid: int | None = None, gid: int | None = None) -> dict[str, Any]:
    """Return the document; with ids, the one for a container of an unprivileged user's."""
    rootless = uid is not None
    process = {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted", "ambient")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }
    return {
        "ociVersion": "1.0.2-dev",
        "process": process,
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "runc",
        "mounts": _mounts(rootless=rootless),
        "linux": {
            **({"uidMappings": _mapping(uid), "gidMappings": _mapping(gid)} if rootless else _no_devices()),
            "namespaces": _namespaces("pid ipc uts mount user" if rootless else "pid network ipc uts mount"),
            "maskedPaths": _MASKED.split(),
            "readonlyPaths": _READ_ONLY.split(),
        },
    }


def _mounts(*, rootless: bool) -> list[dict[str, Any]]:
    common = ["nosuid", "noexec", "nodev"]
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not rootless:
        # A user namespace with one id has no group of that number.
        terminals.append("gid=5")
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount("/dev/pts", "devpts", "devpts", terminals),
        _mount("/dev/shm", "tmpfs", "shm", [*common, "mode=1777", "size=65536k"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", common),
        # Without a network namespace of its own a sysfs may not be mounted, only bound.
        _mount("/sys", "none", "/sys", ["rbind", *common, "ro"])
        if rootless
        else _mount("/sys", "sysfs", "sysfs", [*common, "ro"]),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*common, "relatime", "ro"]),
    ]


def _mount(destination: str, type: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": options}


def _mapping(id: int | None) -> list[dict[str, Any]]:
    return [{"containerID": 0, "hostID": id, "size": 1}]


def _no_devices() -> dict[str, Any]:
    return {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}


def _namespaces(types: str) -> list[dict[str, Any]]:
    return [{"type": type} for type in types.split()]

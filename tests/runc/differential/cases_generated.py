"""Combinations, drawn with a fixed seed: what two fields do to each other, which nobody thought of."""

from __future__ import annotations

import random
from typing import Any

from tests.runc.differential.cases import HOST_ID, MASKED, READ_ONLY, Case, bind, namespaces, tmpfs, user_namespace
from tests.runc.differential.cases_hooks import EACH, hook
from tests.runc.differential.cases_process import ALL_CAPABILITIES
from tests.runc.differential.cases_seccomp import NEEDED

_HOW_MANY = 120
_SETS = ("bounding", "permitted", "effective", "inheritable", "ambient")
_ASKED = (
    "create:/",
    "create:/mnt",
    "create:/home",
    "create:/tmp",
    "tree:/mnt",
    "write:/etc/passwd",
    "write:/proc/sys/kernel/hostname",
    "read:/proc/kcore",
    "open:/dev/extra",
    "open:/dev/null",
    "syscall:unshare-uts",
    "syscall:socket-inet",
    "syscall:unknown-1000",
    "peers:4",
)


def _capabilities(draw: random.Random) -> dict[str, list[str]]:
    """Sets that the kernel allows: each within the one before it, as capabilities(7) wants them."""
    names = draw.sample(ALL_CAPABILITIES, draw.randrange(0, 12))
    sets = {}
    for kind in _SETS:
        sets[kind] = names
        if draw.random() < 0.4:
            names = draw.sample(names, draw.randrange(0, len(names) + 1))
    if draw.random() < 0.3:
        del sets["ambient"]
    return sets


def _mounts(draw: random.Random) -> list[dict[str, Any]]:
    flags = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime"]
    pool = [
        tmpfs("/mnt", *draw.sample(flags, 2), "mode=1777"),
        tmpfs("/home", "tmpcopyup", draw.choice(["size=1m", "mode=700"])),
        bind("data", "/mnt/data", *draw.sample(flags, 3)),
        bind("data", "/home/user", draw.choice(["rbind", "bind"]), draw.choice(["rslave", "private", "rshared"])),
        bind("file", "/etc/passwd", "ro"),
        bind("file", "/new/place/file"),
        bind("data", "/link", "rw"),
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [draw.choice(["ro", "rw"])]},
    ]
    return draw.sample(pool, draw.randrange(0, 5))


def _draw(draw: random.Random, number: int) -> Case:
    own = [kind for kind in ("network", "ipc", "uts", "cgroup") if draw.random() < 0.7]
    changes: dict[str, Any] = {"linux.namespaces": namespaces("pid", "mount", *own)}
    user = draw.random() < 0.25 and {"network", "ipc", "uts"} <= set(own)
    if user:
        changes |= user_namespace()
    if "uts" not in own:
        changes["hostname"] = None
    sometimes = {
        "process.capabilities": _capabilities(draw),
        "process.user": {
            "uid": draw.choice([0, 0, 1000, 4321]),
            "gid": draw.choice([0, 1000, 7]),
            "additionalGids": draw.sample(range(1, 2000), draw.randrange(0, 5)),
            **({"umask": draw.choice([0, 0o22, 0o77, 0o27])} if draw.random() < 0.5 else {}),
        },
        "process.noNewPrivileges": draw.random() < 0.5,
        "process.rlimits": [
            {"type": f"RLIMIT_{kind}", "soft": draw.randrange(10, 500), "hard": draw.randrange(500, 900)}
            for kind in draw.sample(
                ["CORE", "NOFILE", "NPROC", "SIGPENDING", "LOCKS", "MSGQUEUE"], draw.randrange(0, 4)
            )
        ],
        "process.cwd": draw.choice(["/home/user", "/tmp", "/made/for/it", "/dev/shm"]),
        "process.oomScoreAdj": draw.choice([0, 100, 999]),
        "process.env": draw.sample(["PATH=/bin:/", "HOME=/x", "A=1", "B=", "A=2", "TERM=t"], 4),
        "root.readonly": draw.random() < 0.5,
        "mounts+": _mounts(draw),
        "linux.maskedPaths": draw.sample([*MASKED, "/etc/group", "/var"], 5),
        "linux.readonlyPaths": draw.sample([*READ_ONLY, "/etc", "/var"], 3),
        "linux.rootfsPropagation": draw.choice(["private", "rprivate", "slave", "rslave", "shared"]),
        "hooks": {
            kind: [hook(kind, kind)] for kind in draw.sample([kind for kind in EACH if kind != "startContainer"], 2)
        },
        "annotations": {"number": str(number)},
        "linux.resources": {
            "devices": draw.choice(
                [
                    [],
                    [{"allow": False, "access": "rwm"}],
                    [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "rw"}],
                ]
            ),
            "memory": {"limit": draw.choice([64, 128, 256]) * 2**20},
            "pids": {"limit": draw.randrange(20, 200)},
        },
        "linux.seccomp": draw.choice(
            [
                {
                    "defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": NEEDED.split(), "action": "SCMP_ACT_ALLOW"}],
                },
                {
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["unshare", "socket"], "action": "SCMP_ACT_ERRNO"}],
                },
            ]
        ),
    }
    if not user:
        sometimes["linux.devices"] = [
            {"path": "/dev/extra", "type": "c", "major": 1, "minor": 7, "fileMode": draw.choice([0o666, 0o600])}
        ]
    if "network" in own:
        sometimes["linux.sysctl"] = {"net.ipv4.ip_forward": draw.choice(["0", "1"])}
    for path, value in sometimes.items():
        if draw.random() < 0.45:
            changes[path] = value
    return Case(
        f"generated/{number}",
        changes,
        _ASKED,
        files={
            "data/": "",
            "data/inside": "text",
            "file": "root:x:0:0::/bound:/bin/sh\n",
            "rootfs/link": "-> /var/empty",
            "hooks": "",
        },
        owner=HOST_ID if user else 0,
        fails=None,
        flags=draw.choice([(), (), (), ("--no-pivot",), ("--no-new-keyring",), ("--preserve-fds", "1")]),
    )


CASES = [_draw(random.Random(1000 + number), number) for number in range(_HOW_MANY)]

"""Devices: those of the specification, those that are always there, and the links beside them."""

from __future__ import annotations

from typing import Any

from tests.runc.differential.cases import HOST_ID, MOUNTS, Case, bind, user_namespace


def _device(path: str, type: str = "c", major: int = 1, minor: int = 5, **fields: Any) -> dict[str, Any]:
    return {"path": path, "type": type, "major": major, "minor": minor, **fields}


def _with(name: str, *devices: dict[str, Any], asked: tuple[str, ...] = (), **others: Any) -> Case:
    changes = {"linux.devices": list(devices), **others.pop("changes", {})}
    return Case(f"devices/{name}", changes, (*(f"stat:{device['path']}" for device in devices), *asked), **others)


CASES = [
    _with("character", _device("/dev/extra"), asked=("open:/dev/extra",)),
    _with("unbuffered", _device("/dev/extra", "u")),
    _with("block", _device("/dev/extra", "b", 7, 200), asked=("open:/dev/extra",)),
    _with("fifo", {"path": "/dev/extra", "type": "p"}),
    _with("fifo-with-numbers", _device("/dev/extra", "p")),
    _with("mode", _device("/dev/extra", fileMode=0o640)),
    _with("mode-0", _device("/dev/extra", fileMode=0)),
    _with("mode-set-id", _device("/dev/extra", fileMode=0o4755)),
    _with("owner", _device("/dev/extra", uid=1000, gid=2000)),
    _with("all-fields", _device("/dev/extra", fileMode=0o604, uid=3, gid=4), _device("/dev/second", fileMode=0o666)),
    _with("in-missing-directory", _device("/dev/a/b/c"), asked=("tree:/dev/a",)),
    _with("outside-of-dev", _device("/var/lib/device"), asked=("tree:/var/lib",)),
    _with(
        "allowed",
        _device("/dev/fuse", "c", 10, 229),
        asked=("open:/dev/fuse",),
        changes={
            "linux.resources": {
                "devices": [
                    {"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
                ]
            }
        },
    ),
    _with("twice", _device("/dev/extra"), _device("/dev/extra"), fails=False),
    _with("twice-different", _device("/dev/extra"), _device("/dev/extra", minor=7)),
    _with("a-default", _device("/dev/null", minor=3, fileMode=0o600, uid=5, gid=6), fails=True),
    _with("a-default-changed", _device("/dev/null", minor=5)),
    _with("ptmx", _device("/dev/ptmx", major=5, minor=2)),
    _with("console", _device("/dev/console", major=5, minor=1)),
    _with("relative", _device("dev/extra")),
    _with("dots", _device("/dev/../dev/extra")),
    _with("through-link", _device("/link/extra"), files={"rootfs/link": "-> /home"}, asked=("tree:/home",)),
    _with("on-a-file", _device("/etc/passwd"), asked=("open:/etc/passwd",)),
    _with("on-a-directory", _device("/home"), asked=()),
    _with("unknown-type", _device("/dev/extra", "x"), fails=True, text=True),
    _with("no-type", {"path": "/dev/extra", "major": 1, "minor": 3}, fails=True),
    _with("user-namespace", _device("/dev/extra"), changes=user_namespace(), owner=HOST_ID, fails=True),
    _with("user-namespace-existing", _device("/dev/zero", fileMode=0o666), changes=user_namespace(), owner=HOST_ID),
    _with(
        "user-namespace-of-the-host",
        _device("/dev/kvm", "c", 10, 232),
        asked=("open:/dev/kvm",),
        changes=user_namespace(),
        owner=HOST_ID,
    ),
    _with("dev-without-tmpfs", _device("/dev/extra"), changes={"mounts": [MOUNTS["proc"]]}),
    Case(
        "devices/none-but-usual",
        {},
        tuple(f"open:/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")),
    ),
    Case(
        "devices/usual-in-user-namespace",
        user_namespace(),
        ("open:/dev/null", "write:/dev/full", "open:/dev/ptmx"),
        owner=HOST_ID,
    ),
    Case(
        "devices/bound-null",
        {"mounts+": [{"destination": "/dev/other", "type": "bind", "source": "/dev/null", "options": ["bind", "ro"]}]},
        ("open:/dev/other", "stat:/dev/other"),
    ),
    Case(
        "devices/bound-directory-in-dev", {"mounts+": [bind("data", "/dev/data")]}, ("tree:/dev/data",), {"data/x": "1"}
    ),
    Case(
        "devices/links-in-the-way",
        {"mounts": [MOUNTS["proc"]]},
        files={"rootfs/dev/fd": "-> elsewhere", "rootfs/dev/core": "-> x"},
    ),
]

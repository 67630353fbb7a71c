"""Bad bundles, ids and documents: the exit code, and the words where tools know them."""

from __future__ import annotations

import json
from typing import Any

from tests.runc.differential.cases import DIR, HOST_ID, MOUNTS, Case, bind, namespaces


def _bad(name: str, changes: dict[str, Any], *, text: bool = True, **others: Any) -> Case:
    return Case(f"errors/{name}", changes, fails=True, text=text, **others)


def _config(name: str, data: bytes, *, text: bool = False) -> Case:
    return Case(f"errors/config-{name}", config=data, fails=True, text=text)


def _with(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [*MOUNTS.values(), *changes]


_MAPS = [{"containerID": 0, "hostID": HOST_ID, "size": 10}]

CASES = [
    Case("not-checked/version-empty", {"ociVersion": ""}),
    _config("empty", b""),
    _config("null", b"null"),
    _config("array", b"[]"),
    _config("number", b"7"),
    _config("cut-off", b'{"ociVersion": "1.0.2", "process": {'),
    _config("not-utf-8", b'{"ociVersion": "\xff"}'),
    _config("empty-object", b"{}"),
    _config("only-version", b'{"ociVersion": "1.0.2"}'),
    _config("nan", b'{"ociVersion": "1.0.2", "process": {"oomScoreAdj": NaN}}'),
    _config("deep", b'{"a":' * 20000 + b"1" + b"}" * 20000),
    _config("process-a-list", json.dumps({"ociVersion": "1.0.2", "process": [], "root": {"path": "rootfs"}}).encode()),
    _config(
        "args-a-string",
        json.dumps(
            {"ociVersion": "1.0.2", "process": {"args": "true", "cwd": "/"}, "root": {"path": "rootfs"}}
        ).encode(),
    ),
    _config(
        "uid-a-string",
        json.dumps(
            {
                "ociVersion": "1.0.2",
                "process": {"args": ["true"], "cwd": "/", "user": {"uid": "0"}},
                "root": {"path": "rootfs"},
            }
        ).encode(),
    ),
    _config(
        "uid-negative",
        json.dumps(
            {
                "ociVersion": "1.0.2",
                "process": {"args": ["true"], "cwd": "/", "user": {"uid": -1}},
                "root": {"path": "rootfs"},
            }
        ).encode(),
    ),
    Case("not-checked/version-2", {"ociVersion": "2.0.0"}),
    Case("not-checked/version-word", {"ociVersion": "word"}),
    _bad("process-absent", {"process": None}),
    _bad("namespace-unknown", {"linux.namespaces+": [{"type": "none"}]}),
    _bad("namespace-no-type", {"linux.namespaces+": [{}]}),
    _bad("namespace-twice", {"linux.namespaces+": [{"type": "pid"}]}),
    _bad("namespace-path-missing", {"linux.namespaces": namespaces("pid", "mount", "ipc", "uts", network="/no/such")}),
    _bad(
        "namespace-path-wrong",
        {"linux.namespaces": namespaces("pid", "mount", "ipc", "uts", network="/proc/self/ns/ipc")},
        text=False,
    ),
    _bad(
        "namespace-path-file",
        {"linux.namespaces": namespaces("pid", "mount", "ipc", "uts", network=f"{DIR}/config.json")},
        text=False,
    ),
    _bad("hostname-without-uts", {"linux.namespaces": namespaces("pid", "ipc", "network", "mount")}),
    _bad("user-without-maps", {"linux.namespaces+": [{"type": "user"}]}),
    _bad("user-without-gid-map", {"linux.namespaces+": [{"type": "user"}], "linux.uidMappings": _MAPS}),
    Case("not-checked/maps-without-user", {"linux.uidMappings": _MAPS, "linux.gidMappings": _MAPS}),
    _bad(
        "maps-overlap",
        {"linux.namespaces+": [{"type": "user"}], "linux.uidMappings": _MAPS * 2, "linux.gidMappings": _MAPS},
        text=False,
    ),
    _bad(
        "map-size-0",
        {
            "linux.namespaces+": [{"type": "user"}],
            "linux.uidMappings": [{**_MAPS[0], "size": 0}],
            "linux.gidMappings": _MAPS,
        },
        text=False,
    ),
    _bad(
        "masked-without-mount",
        {"linux.namespaces": namespaces("pid", "ipc", "uts", "network"), "linux.readonlyPaths": []},
    ),
    _bad(
        "read-only-without-mount",
        {"linux.namespaces": namespaces("pid", "ipc", "uts", "network"), "linux.maskedPaths": []},
    ),
    _bad("apparmor-absent", {"process.apparmorProfile": "no-such-profile"}),
    _bad("selinux-absent", {"process.selinuxLabel": "a:b:c:d"}),
    _bad("selinux-mount-label", {"linux.mountLabel": "a:b:c:d"}),
    Case("not-checked/intel-rdt-absent", {"linux.intelRdt": {"closID": "x"}}),
    _bad("cgroups-path-systemd", {}, global_flags=("--systemd-cgroup",), text=False),
    _bad("mount-source-missing", {"mounts": _with(bind("none", "/mnt"))}),
    _bad("bind-on-sys-device", {"mounts": _with(bind("none", "/sys/x"))}),
    _bad("mount-no-destination", {"mounts": _with({"type": "tmpfs", "source": "x"})}, text=False),
    _bad("no-such-bundle", {}, flags=("--bundle", f"{DIR}/none")),
    _bad("unknown-flag", {}, flags=("--no-such-flag",), text=False),
    _bad("unknown-global-flag", {}, global_flags=("--no-such-flag",), text=False),
    _bad("log-format", {}, global_flags=("--log-format", "word"), text=False),
    _bad("json", {"process.args": ["no-such-program"]}, global_flags=("--log-format", "json")),
    _bad("json-config", {"root": None}, global_flags=("--log-format", "json")),
    _bad("rootfs-empty", {}, files={"rootfs/probe": None}),
]

#: What is in the place of /proc, /sys and /dev.
for _name in ("proc", "sys", "dev"):
    CASES += [
        Case(f"errors/{_name}-a-file", {}, files={f"rootfs/{_name}": None, f"rootfs/./{_name}": "text"}, fails=True),
        Case(
            f"errors/{_name}-a-link",
            {},
            files={f"rootfs/{_name}": None, f"rootfs/./{_name}": "-> /home"},
            fails=_name != "dev",
        ),
    ]

"""A bundle's config.json, read and checked. OCI runtime specification 1.2: bundle.md, config.md, config-linux.md."""

from __future__ import annotations

import os
import stat

from wherry.errors import InvalidArgument, NotFound
from wherry.oci import json_text
from wherry.runc.sysctls import check_sysctls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Spec = dict[str, Any]

CONFIG = "config.json"

#: A document larger than this is none that an engine wrote; docker's with a long seccomp profile have 100 kB.
MAX_CONFIG = 8 << 20
#: Each is several system calls, and the kernel has a limit of its own (fs.mount-max, 100,000 in a namespace).
MAX_MOUNTS = 4096

NAMESPACES = ("user", "ipc", "uts", "network", "pid", "mount", "cgroup", "time")

_PROPAGATIONS = ("", "shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable")

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def check_id(id: str) -> None:
    """Raise InvalidArgument unless an id is one that a directory can be named after: runc's rule."""
    if not id or id in (".", "..") or not _ID_CHARACTERS.issuperset(id) or len(id) > 1024:
        raise InvalidArgument(f"invalid container ID format {id!r}: it is made of letters, digits and _+-.")


def load_spec(bundle: str) -> Spec:
    """Read a bundle's configuration. NotFound if it has none, InvalidArgument if it is not one."""
    path = os.path.join(bundle, CONFIG)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f'JSON specification file "{path}"') from None
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument(f"{path} is no regular file")
        if status.st_size > MAX_CONFIG:
            raise InvalidArgument(f"{path} has {status.st_size} bytes, more than {MAX_CONFIG}")
        data = file.read(MAX_CONFIG)
    return parse_spec(data, path)


def parse_spec(data: bytes, name: str) -> Spec:
    """Parse a configuration and check it. InvalidArgument, naming the document and the field."""
    spec = parse_object(data, name)
    check_spec(spec)
    return spec


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object (RFC 8259: no NaN, no Infinity). InvalidArgument for anything else."""
    try:
        document = json_text.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument(f"{name}: no JSON document: {reason}") from None
    if not isinstance(document, dict):
        raise InvalidArgument(f"{name}: not a JSON object")
    return document


def check_spec(spec: Spec) -> None:
    """Check what would otherwise fail half-way: types of the fields, and combinations that cannot be.

    InvalidArgument names the field.
    """
    _check_types(spec, _SPEC, "")
    root = spec.get("root")
    if not root:
        raise InvalidArgument("root must be specified")
    check_version(spec.get("ociVersion"))
    process = spec.get("process")
    if process is not None:
        check_process(process)
    mounts = spec.get("mounts") or ()
    if len(mounts) > MAX_MOUNTS:
        raise InvalidArgument(f"mounts: {len(mounts)} of them, more than {MAX_MOUNTS}")
    for mount in mounts:
        if not mount.get("destination"):
            raise InvalidArgument("mounts: one has no destination")
    linux = spec.get("linux") or {}
    namespaces = namespace_paths(spec)
    _check_namespaces(spec, linux, namespaces)
    check_sysctls(linux.get("sysctl") or {}, namespaces)
    _check_hooks(spec.get("hooks") or {})
    check_resources(linux.get("resources") or {})
    if linux.get("rootfsPropagation", "") not in _PROPAGATIONS:
        raise InvalidArgument(f"rootfsPropagation={linux['rootfsPropagation']} is not supported")
    for name in ("intelRdt",):
        if linux.get(name):
            raise InvalidArgument(f"linux.{name} is not supported by this runtime: take it out, or use runc")


def check_version(version: object) -> None:
    """Raise InvalidArgument unless a specification is of version 1."""
    if not version:
        raise InvalidArgument("ociVersion must be specified")
    if not isinstance(version, str) or not version.startswith("1."):
        raise InvalidArgument(f"ociVersion {version!r}: this runtime knows version 1 of the specification")


def check_process(process: Mapping[str, Any]) -> None:
    """Check a process document, that of a configuration or of exec. InvalidArgument."""
    _check_types(process, _PROCESS, "process.")
    if not process.get("args"):
        raise InvalidArgument("args must not be empty")
    cwd = process.get("cwd", "")
    if not cwd:
        raise InvalidArgument("Cwd property must not be empty")
    if not cwd.startswith("/"):
        raise InvalidArgument("Cwd must be an absolute path")


def check_resources(resources: Mapping[str, Any]) -> None:
    """Check a LinuxResources document, that of a configuration or of update. InvalidArgument."""
    _check_types(resources, _RESOURCES, "linux.resources.")
    for entry in resources.get("hugepageLimits") or ():
        if not entry.get("pageSize") or entry.get("limit") is None:
            raise InvalidArgument("linux.resources.hugepageLimits: an entry has pageSize and limit")


def namespace_paths(spec: Spec) -> dict[str, str]:
    """Return the namespaces that are asked for: the path of the one to join, or "" for a new one, by type."""
    found: dict[str, str] = {}
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        type = entry.get("type")
        if type not in NAMESPACES:
            raise InvalidArgument(f"namespace {_go(entry)} does not exist")
        if type in found:
            raise InvalidArgument(f"malformed spec file: duplicated ns {_go(entry)}")
        found[type] = entry.get("path") or ""
    return found


def _go(namespace: Mapping[str, Any]) -> str:
    """Return an entry as runc's errors show it."""
    return f'{{"{namespace.get("type") or ""}" "{namespace.get("path") or ""}"}}'


def _check_namespaces(spec: Spec, linux: Mapping[str, Any], namespaces: Mapping[str, str]) -> None:
    for name in ("uidMappings", "gidMappings"):
        for mapping in linux.get(name) or ():
            if not all(isinstance(mapping.get(key), int) for key in ("containerID", "hostID", "size")):
                raise InvalidArgument(f"linux.{name}: an entry has containerID, hostID and size")
    if "user" in namespaces and not namespaces["user"]:
        for name in ("uid", "gid"):
            if not linux.get(f"{name}Mappings"):
                raise InvalidArgument(f"User namespaces enabled, but no {name} mappings found.")
    if "mount" not in namespaces:
        if linux.get("maskedPaths") or linux.get("readonlyPaths"):
            raise InvalidArgument("unable to restrict sys entries without a private MNT namespace")
        if spec.get("mounts") or linux.get("devices"):
            raise InvalidArgument("mounts and devices need a mount namespace: they would be the host's")
    if spec.get("hostname") and "uts" not in namespaces:
        raise InvalidArgument("unable to set hostname without a private UTS namespace")
    if spec.get("domainname") and "uts" not in namespaces:
        raise InvalidArgument("unable to set domainname without a private UTS namespace")
    if linux.get("timeOffsets") and "time" not in namespaces:
        raise InvalidArgument("time namespace offsets specified, but time namespace isn't enabled in the config")


def _check_hooks(hooks: Mapping[str, Any]) -> None:
    for name, entries in hooks.items():
        for hook in entries or ():
            path = hook.get("path") if isinstance(hook, dict) else None
            if not isinstance(path, str) or not path.startswith("/"):
                raise InvalidArgument(f"hooks.{name}: path must be an absolute path")
            timeout = hook.get("timeout")
            if timeout is not None and (not isinstance(timeout, int) or timeout <= 0):
                raise InvalidArgument(f"hooks.{name}: timeout must be greater than zero")


def _check_text(text: str, name: str) -> None:
    if "\0" in text:
        raise InvalidArgument(f"{name}: {_shown(text)} has a NUL byte")
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise InvalidArgument(f"{name}: {_shown(text)} has half a character") from None


def _shown(value: object) -> str:
    """Return a value as an error names it: what belongs to others is of any length and depth."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


# What types the fields that this runtime reads are of, or in which range; a list's entry stands for each of its own,
# and "*" in an object for all that is in there.
_STRINGS: list[object] = [str]
#: The last one, as -1, would mean "as it is" to setresuid(2).
_ID = range((1 << 32) - 1)
_UINT32 = range(1 << 32)
_UINT64 = range(1 << 64)
_INT64 = range(-(1 << 63), 1 << 63)
_DEVICE_NUMBER = range(1 << 31)
_TEXTS: dict[str, object] = {"*": str}
_PROCESS: dict[str, object] = {
    "terminal": bool,
    "consoleSize": {"height": int, "width": int},
    "user": {"uid": _ID, "gid": _ID, "umask": _UINT32, "additionalGids": [_ID], "username": str},
    "args": _STRINGS,
    "env": _STRINGS,
    "cwd": str,
    "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), _STRINGS),
    "rlimits": [{"type": str, "hard": _UINT64, "soft": _UINT64}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "oomScoreAdj": int,
    "scheduler": {"policy": str, "nice": int, "priority": int, "flags": _STRINGS},
    "selinuxLabel": str,
    "ioPriority": {"class": str, "priority": int},
    "execCPUAffinity": {"initial": str, "final": str},
}
_MAPPINGS: list[object] = [{"containerID": _UINT32, "hostID": _UINT32, "size": _UINT32}]
_RATES: list[object] = [{"major": _INT64, "minor": _INT64, "rate": _UINT64}]
_RESOURCES: dict[str, object] = {
    "devices": [{"allow": bool, "type": str, "major": _INT64, "minor": _INT64, "access": str}],
    "memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP"), _INT64),
        **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
        "swappiness": _UINT64,
    },
    "cpu": {
        **dict.fromkeys(("shares", "burst", "period", "realtimePeriod"), _UINT64),
        **dict.fromkeys(("quota", "realtimeRuntime", "idle"), _INT64),
        "cpus": str,
        "mems": str,
    },
    "pids": {"limit": _INT64},
    "blockIO": {
        "weight": _UINT32,
        "leafWeight": _UINT32,
        "weightDevice": [{"major": _INT64, "minor": _INT64, "weight": _UINT32, "leafWeight": _UINT32}],
        **{f"throttle{what}Device": _RATES for what in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")},
    },
    "hugepageLimits": [{"pageSize": str, "limit": _UINT64}],
    "network": {"classID": _UINT32, "priorities": [{"name": str, "priority": _UINT32}]},
    "rdma": {"*": {"hcaHandles": _UINT32, "hcaObjects": _UINT32}},
    "unified": _TEXTS,
}
_HOOKS: list[object] = [{"path": str, "args": _STRINGS, "env": _STRINGS, "timeout": int}]
_SPEC: dict[str, object] = {
    "process": _PROCESS,
    "root": {"path": str, "readonly": bool},
    "hostname": str,
    "domainname": str,
    "mounts": [
        {
            "destination": str,
            "source": str,
            "type": str,
            "options": _STRINGS,
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        }
    ],
    "annotations": _TEXTS,
    "hooks": {"*": _HOOKS},
    "linux": {
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "sysctl": _TEXTS,
        "resources": {},
        "cgroupsPath": str,
        "namespaces": [{"type": str, "path": str}],
        "devices": [
            {
                "path": str,
                "type": str,
                "major": _DEVICE_NUMBER,
                "minor": _DEVICE_NUMBER,
                "fileMode": _UINT32,
                "uid": _ID,
                "gid": _ID,
            }
        ],
        "seccomp": {},
        "rootfsPropagation": str,
        "maskedPaths": _STRINGS,
        "readonlyPaths": _STRINGS,
        "mountLabel": str,
        "personality": {"domain": str, "flags": _STRINGS},
        "timeOffsets": {"*": {"secs": _INT64, "nanosecs": _UINT32}},
    },
}


def _check_types(value: object, kind: object, name: str) -> None:
    if value is None:
        return  # as Go's parser takes it: the field is not there
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            raise InvalidArgument(f"{name or 'config'}: not an object")
        if "*" in kind:
            for key in value:
                _check_text(key, name)
            kind = dict.fromkeys(value, kind["*"])
        for key, inner in kind.items():
            if key in value:
                _check_types(value[key], inner, f"{name}{key}." if isinstance(inner, dict) else f"{name}{key}")
    elif isinstance(kind, list):
        if not isinstance(value, list):
            raise InvalidArgument(f"{name}: not a list")
        for entry in value:
            if entry is None:
                raise InvalidArgument(f"{name}: an entry is null")
            _check_types(entry, kind[0], f"{name}." if isinstance(kind[0], dict) else name)
    elif isinstance(kind, range):
        if isinstance(value, bool) or not isinstance(value, int) or value not in kind:
            raise InvalidArgument(f"{name}: {_shown(value)} is no number from {kind.start} to {kind.stop - 1}")
    elif kind is str and isinstance(value, str):
        _check_text(value, name)
    elif type(value) is not kind:
        raise InvalidArgument(f"{name}: {_shown(value)} is of the wrong type")

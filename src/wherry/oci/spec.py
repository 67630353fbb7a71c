"""The runtime specification of a container: containerd's defaults, and what changes them.

A specification is a plain dictionary, the JSON of config.json (OCI runtime specification, config.md and
config-linux.md). Each function changes one in place, as containerd's oci.SpecOpts do.
"""

from __future__ import annotations

import os
import stat

from wherry.errors import InvalidArgument
from wherry.linux.capability_names import CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Spec = dict[str, Any]

OCI_VERSION = "1.0.2-dev"

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)

_SETS = ("bounding", "effective", "permitted")

_DEVICES = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))

_TMPFS = ["nosuid", "strictatime", "mode=755", "size=65536k"]

#: Microseconds of a CFS period, config-linux.md.
CPU_PERIOD = 100_000


def default_spec(namespace: str, id: str) -> Spec:
    """Return the specification that containerd gives a container which asks for nothing."""
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for major, minor in _DEVICES:
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        devices.append({key: value for key, value in rule.items() if value is not None})
    return {
        "ociVersion": OCI_VERSION,
        "process": {
            "user": {"uid": 0, "gid": 0},
            "cwd": "/",
            "capabilities": {name: list(DEFAULT_CAPABILITIES) for name in _SETS},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "tmpfs", *_TMPFS),
            _mount(
                "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
            ),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/run", "tmpfs", "tmpfs", *_TMPFS),
        ],
        "linux": {
            "resources": {"devices": devices},
            "cgroupsPath": f"/{namespace}/{id}",
            "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def _mount(destination: str, type: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": type, "source": source, "options": list(options)}


def set_image_config(
    spec: Spec, config: Mapping[str, Any], args: Sequence[str], entrypoint: Sequence[str] | None
) -> None:
    """Take command, environment and working directory from an image's config (OCI image specification, config.md).

    `args` replace the image's Cmd, `entrypoint` its Entrypoint and with it its Cmd. InvalidArgument if nothing is left
    to run.
    """
    process = spec["process"]
    add_environment(spec, config.get("Env") or [DEFAULT_PATH])
    command = list(args)
    if entrypoint is None:
        command = [*(config.get("Entrypoint") or ()), *(command or config.get("Cmd") or ())]
    else:
        command = [*entrypoint, *command]
    if not command:
        raise InvalidArgument("no arguments specified: the image has no command, name one")
    process["args"] = command
    process["cwd"] = config.get("WorkingDir") or "/"


def add_environment(spec: Spec, variables: Sequence[str]) -> None:
    """Set variables, each ``NAME=VALUE``; ``NAME`` alone takes one away."""
    environment = spec["process"].setdefault("env", [])
    places = {entry.partition("=")[0]: index for index, entry in enumerate(environment)}
    for variable in variables:
        name, equals, _value = variable.partition("=")
        if name in places:
            environment[places[name]] = variable if equals else None
        elif equals:
            places[name] = len(environment)
            environment.append(variable)
    spec["process"]["env"] = [entry for entry in environment if entry is not None]


def set_terminal(spec: Spec) -> None:
    """Give the process a terminal."""
    spec["process"]["terminal"] = True
    if not any(entry.startswith("TERM=") for entry in spec["process"].get("env", ())):
        add_environment(spec, ["TERM=xterm"])


def share_host_network(spec: Spec, hostname: str) -> None:
    """Leave the container in the host's network, with the host's name resolution."""
    remove_namespace(spec, "network")
    add_environment(spec, [f"HOSTNAME={hostname}"])
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        spec["mounts"].append(_mount(path, "bind", path, "rbind", "ro"))


def remove_namespace(spec: Spec, type: str) -> None:
    """Leave the container in the host's namespace of a type."""
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != type]


def set_privileged(spec: Spec) -> None:
    """Give all capabilities that this process may give, all devices, and nothing masked or read-only."""
    spec["process"]["capabilities"] = {name: held_capabilities() for name in _SETS}
    linux = spec["linux"]
    linux.pop("maskedPaths", None)
    linux.pop("readonlyPaths", None)
    linux["devices"] = host_devices()
    linux["resources"]["devices"] = [{"allow": True, "access": "rwm"}]
    for mount in spec["mounts"]:
        if mount["type"] in ("sysfs", "cgroup"):
            mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]


def held_capabilities() -> list[str]:
    """Return the names of this process's bounding capabilities, capabilities(7)."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("CapBnd:"))
    held = int(line.split()[1], 16)
    return [name for number, name in enumerate(CAPABILITIES) if held >> number & 1]


def change_capabilities(spec: Spec, add: Sequence[str], drop: Sequence[str]) -> None:
    """Add and take away capabilities; the prefix CAP_ and capital letters may be left out, ALL means every one.

    As in Docker, what is named beside an ALL of the other list is an exception to it. InvalidArgument for a name that
    there is not.
    """
    added = {capability(name) for name in add if not _is_all(name)}
    dropped = {capability(name) for name in drop if not _is_all(name)}
    if any(map(_is_all, add)):
        added.update(held_capabilities())
    capabilities = spec["process"]["capabilities"]
    for each in _SETS:
        have = [] if any(map(_is_all, drop)) else capabilities.get(each, [])
        wanted = added.union(have) - dropped
        capabilities[each] = [one for one in CAPABILITIES if one in wanted]


def _is_all(name: str) -> bool:
    return name.upper() == "ALL"


def capability(name: str) -> str:
    """Return a capability's full name. InvalidArgument for one that there is not."""
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full not in CAPABILITIES:
        raise InvalidArgument(f"unknown capability {name!r}: see capabilities(7)")
    return full


def host_devices() -> list[dict[str, Any]]:
    """Return the host's device nodes, as containerd does for a privileged container."""
    devices: list[dict[str, Any]] = []
    _collect_devices("/dev", devices)
    return devices


def _collect_devices(directory: str, devices: list[dict[str, Any]]) -> None:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name in ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"):
            continue
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            continue  # removed meanwhile
        if stat.S_ISDIR(found.st_mode):
            _collect_devices(path, devices)
        elif stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            if (os.major(found.st_rdev), os.minor(found.st_rdev)) == (0, 0):
                continue  # a whiteout
            devices.append(
                {
                    "path": path,
                    "type": "c" if stat.S_ISCHR(found.st_mode) else "b",
                    "major": os.major(found.st_rdev),
                    "minor": os.minor(found.st_rdev),
                    "fileMode": stat.S_IMODE(found.st_mode),
                    "uid": found.st_uid,
                    "gid": found.st_gid,
                }
            )


def limit_memory(spec: Spec, limit: int) -> None:
    """Limit memory to some bytes."""
    spec["linux"]["resources"].setdefault("memory", {})["limit"] = limit


def limit_cpus(spec: Spec, cpus: float) -> None:
    """Limit CPU time to that of so many CPUs."""
    spec["linux"]["resources"]["cpu"] = {"quota": int(cpus * CPU_PERIOD), "period": CPU_PERIOD}


def limit_pids(spec: Spec, limit: int) -> None:
    """Limit the number of processes and threads."""
    spec["linux"]["resources"]["pids"] = {"limit": limit}


def add_mount(spec: Spec, text: str) -> None:
    """Add a mount written as ``type=bind,src=/a,dst=/b,options=rbind:ro``. InvalidArgument for one that is not.

    As docker's, ``source``, ``destination``, ``target`` and ``readonly`` are understood too.
    """
    fields: dict[str, str] = {}
    options: list[str] = []
    names = {"source": "src", "destination": "dst", "target": "dst"}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = names.get(key, key)
        if key in ("readonly", "ro"):
            if value in ("", "true", "1"):
                options.append("ro")
        elif key in ("type", "src", "dst") and equals:
            fields[key] = value
        elif key == "options" and equals:
            options += value.split(":")
        else:
            raise InvalidArgument(f"mount {text!r}: {part!r} is none of type=, src=, dst=, options=, readonly")
    if "dst" not in fields:
        raise InvalidArgument(f"mount {text!r} has no dst=")
    kind = fields.get("type", "bind")
    source = fields.get("src", kind if kind != "bind" else "")
    if kind == "bind":
        if not source:
            raise InvalidArgument(f"mount {text!r} has no src=")
        if not os.path.isabs(source):
            raise InvalidArgument(f"mount {text!r}: src must be an absolute path")
        if "bind" not in options and "rbind" not in options:
            options.insert(0, "rbind")
    spec["mounts"].append(_mount(fields["dst"], kind, source, *options))

"""Kernel parameters that a container may set: those of its own namespaces. OCI runtime specification, config-linux.md,
"Sysctl"; sysctl(8)."""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_IPC = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def check_sysctls(values: Mapping[str, object], namespaces: Mapping[str, str]) -> None:
    """Refuse parameters of the host's. InvalidArgument, naming the parameter.

    `namespaces` are those that the container has: "" for a new one, else the path of the one that is joined.
    """
    for name, value in values.items():
        if not isinstance(value, str):
            raise InvalidArgument(f"linux.sysctl: {name}: {value!r} is no string")
        _check(dotted(name), name, namespaces)


def _check(parameter: str, name: str, namespaces: Mapping[str, str]) -> None:
    if "" in parameter.split("."):
        raise InvalidArgument(f'sysctl "{name}" is no name of a kernel parameter')
    if parameter in _IPC or parameter.startswith("fs.mqueue."):
        if "ipc" not in namespaces:
            raise InvalidArgument(f'sysctl "{name}" is not allowed in the hosts ipc namespace')
    elif parameter.startswith("net."):
        if "network" not in namespaces or _is_ours(namespaces["network"], "net"):
            raise InvalidArgument(f'sysctl "{name}" not allowed in host network namespace')
    elif parameter == "kernel.domainname" and "uts" in namespaces:
        return
    elif parameter == "kernel.hostname" and "uts" in namespaces:
        raise InvalidArgument(f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field')
    else:
        raise InvalidArgument(f'sysctl "{name}" is not in a separate kernel namespace')


def _is_ours(path: str, type: str) -> bool:
    """Whether a path is of the namespace that this process is in."""
    if not path:
        return False
    try:
        theirs, ours = os.stat(path), os.stat(f"/proc/self/ns/{type}")
    except OSError:
        return False  # joining it will say what is wrong
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def dotted(name: str) -> str:
    """Return a parameter's name with dots between its parts; a dot in a part becomes a slash. sysctl(8).

    The first separator tells which of the two ways a name is written in.
    """
    first = next((letter for letter in name if letter in "./"), ".")
    return name if first == "." else name.translate({46: "/", 47: "."})


def sysctl_path(name: str) -> str:
    """Return a parameter's path below /proc/sys."""
    return dotted(name).translate({46: "/", 47: "."})

"""cgroups: a process put into one, whatever the hierarchy. cgroups(7)."""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"


def unified() -> bool:
    """Tell whether this host has cgroup v2 alone."""
    return os.path.exists(os.path.join(_ROOT, "cgroup.controllers"))


def join(path: str, pid: int) -> None:
    """Move a process into a cgroup, made if need be, in every hierarchy there is. OSError if that is refused."""
    for root in [_ROOT] if unified() else _hierarchies():
        directory = os.path.join(root, path.lstrip("/"))
        try:
            os.makedirs(directory, exist_ok=True)
            with open(os.path.join(directory, "cgroup.procs"), "w") as file:
                file.write(str(pid))
        except OSError:
            # An empty cpuset takes nobody, and a hybrid host's unified hierarchy limits nothing.
            if os.path.basename(root) not in ("cpuset", "unified"):
                raise


def _hierarchies() -> list[str]:
    with os.scandir(_ROOT) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not entry.is_symlink())

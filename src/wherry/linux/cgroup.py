"""cgroups: a process put into one, whatever the hierarchy. cgroups(7)."""

from __future__ import annotations

import os

_ROOT = "/sys/fs/cgroup"


def unified() -> bool:
    """Tell whether this host has cgroup v2 alone."""
    return os.path.exists(os.path.join(_ROOT, "cgroup.controllers"))


def join(path: str, pid: int) -> None:
    """Move a process into a cgroup, in every hierarchy that has it. OSError if none has, or if that is refused.

    None is made: nobody would know when to remove it.
    """
    roots = [_ROOT] if unified() else _hierarchies()
    there = [root for root in roots if os.path.isdir(_in(root, path))]
    for root in there or roots[:1]:
        procs = os.path.join(_in(root, path), "cgroup.procs")
        try:
            fd = os.open(procs, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(pid).encode())
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = procs
            # An empty cpuset takes nobody, and a hybrid host's unified hierarchy limits nothing.
            if not there or os.path.basename(root) not in ("cpuset", "unified"):
                raise


def _in(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _hierarchies() -> list[str]:
    with os.scandir(_ROOT) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and not entry.is_symlink())

"""A container's control groups, whatever the host has: cgroup v1, v2, both, or systemd in charge. cgroups(7)."""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.runc.cgroups.hierarchies import hierarchies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.cgroups.oom import OomNotice

    class Cgroup(Protocol):
        """The cgroups of one container. What fails raises the errors of wherry, in runc's words."""

        @property
        def paths(self) -> dict[str, str]:
            """Absolute directories: v1's by controller (under "" v2's, if it is beside them), or v2's under ""."""
            ...

        @property
        def version(self) -> int:
            """1 or 2."""
            ...

        @property
        def systemd_unit(self) -> str:
            """The unit that systemd has for it, or ""."""
            ...

        def create(self, resources: Mapping[str, Any] | None = None) -> None:
            """Make the directories; what exists is joined, never moved or reset.

            `resources` are those that `set` is called with later: some of them count from the first moment.
            """
            ...

        def entrance(self) -> Entrance | None:
            """Return how a child of this process gets in by itself; None if it has to be moved, by `join`."""
            ...

        def join(self, pid: int, sub: Sequence[str] = (), *, beside: int = 0) -> None:
            """Move a process into every one.

            `sub` is what `runc exec --cgroup` takes: cgroups below them. `beside` is the pid of a container's init,
            whose cgroup a further process gets into if the container's own may have none any more (v2).
            """
            ...

        def set(self, resources: Mapping[str, Any]) -> None:
            """Set the limits of a LinuxResources document; what is absent or 0 stays as it is, -1 is no limit.

            After `create` it is called once, even with an empty document: then devices that are not named are the
            default ones. On a loaded cgroup (an update) they stay as they are if none are named.
            """
            ...

        def freeze(self) -> None:
            """Stop all processes. Returns when they are."""
            ...

        def thaw(self) -> None:
            """Let them run."""
            ...

        def frozen(self) -> bool:
            """Tell whether they are stopped. False if the cgroup is gone."""
            ...

        def exists(self) -> bool:
            """Tell whether the cgroup is there."""
            ...

        def pids(self) -> list[int]:
            """Return the processes of it and of everything below. None if it is gone."""
            ...

        def kill(self, signal: int) -> None:
            """Send a signal to all processes; none that they fork meanwhile is left out."""
            ...

        def stats(self) -> dict[str, Any]:
            """Return what `runc events --stats` has under "data"."""
            ...

        def oom(self) -> OomNotice:
            """Return what tells of the OOM killer: a descriptor to poll."""
            ...

        def oom_kills(self) -> int:
            """Return how many processes of it the OOM killer has ended. 0 where the kernel does not say."""
            ...

        def delete(self) -> None:
            """Remove it and all below it; fine if it is gone. Processes that are just going are waited for, shortly."""
            ...


def new_cgroup(
    path: str, id: str, *, systemd: bool, rootless: bool, annotations: Mapping[str, str] | None = None
) -> Cgroup:
    """Return the cgroup that a container is to have; nothing is made yet. InvalidArgument, Unknown.

    `path` is the specification's linux.cgroupsPath: absolute, from the hierarchy's top; relative, from where runc has
    such ones; "" for runc's default; with `systemd`, "SLICE:PREFIX:NAME", and what annotations say of the unit.
    """
    if "\0" in path:
        raise InvalidArgument(f"linux.cgroupsPath: {path!r} has a NUL byte")
    if systemd:
        from wherry.runc.cgroups.systemd import new_systemd

        return new_systemd(path, id, rootless=rootless, annotations=annotations or {})
    if hierarchies().version == 2:
        from wherry.runc.cgroups.v2 import new_v2

        return new_v2(path, id, rootless=rootless)
    from wherry.runc.cgroups.v1 import new_v1

    return new_v1(path, id, rootless=rootless)


def load_cgroup(paths: Mapping[str, str], *, systemd_unit: str = "", rootless: bool = False) -> Cgroup:
    """Return the cgroup that a container has, by what its state file says. Unknown."""
    if systemd_unit:
        from wherry.runc.cgroups.systemd import load_systemd

        return load_systemd(dict(paths), systemd_unit, rootless=rootless)
    if hierarchies().version == 2:
        from wherry.runc.cgroups.v2 import CgroupV2

        return CgroupV2(paths.get("", ""), rootless=rootless)
    from wherry.runc.cgroups.v1 import CgroupV1

    return CgroupV1(dict(paths), rootless=rootless)

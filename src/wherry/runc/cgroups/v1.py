"""A container's cgroups in the hierarchies of cgroup v1, and in v2's beside them (a hybrid system).

Documentation/admin-guide/cgroup-v1/ of the kernel. Limits are set by `v1_limits`.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import Unknown
from wherry.runc.cgroups import control_files, freezer, v1_limits
from wherry.runc.cgroups.control_files import refused
from wherry.runc.cgroups.devices import policy, set_devices
from wherry.runc.cgroups.hierarchies import clean, hierarchies, in_user_namespace, own_cgroups
from wherry.runc.cgroups.members import ADDING, APPLYING, SIGKILL, below, send, setting, sub_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.cgroups.oom import OomNotice

_NOT_THERE = "cannot set {} limit: container could not join or create cgroup"


class CgroupV1:
    """One directory in each hierarchy."""

    __slots__ = ("_may_do_without", "_new", "_rootless", "paths", "systemd_unit")

    version = 1

    def __init__(self, paths: dict[str, str], *, rootless: bool, may_do_without: bool = False) -> None:
        #: Directories by controller, in the order of `hierarchies.CONTROLLERS`; under "" that of cgroup v2.
        self.paths = paths
        self.systemd_unit = ""
        self._rootless = rootless
        #: Nobody named a path: where an unprivileged user can't make it, there is no cgroup.
        self._may_do_without = may_do_without
        self._new = False

    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """Make the directories; one that exists is joined as it is.

        What a process must not come without is set here, by `resources` or as in the cgroup above: cpus and memory
        nodes, and time for real-time processes. Unknown.
        """
        self._new = True
        cpu = (resources or {}).get("cpu") or {}
        made: dict[str, bool] = {}
        for controller, path in list(self.paths.items()):
            try:
                if path not in made:
                    made[path] = control_files.make(path)
                if controller == "cpuset":
                    if cpu.get("cpus") or cpu.get("mems"):
                        # Those above are made whole first: a cpu that they lack can't be asked for.
                        _inherit_cpuset(os.path.dirname(path))
                        v1_limits.set_cpuset(path, cpu)
                    _inherit_cpuset(path)
                elif controller == "cpu":
                    v1_limits.set_real_time(path, cpu)
            except OSError as error:
                if not self._may_do_without or not self._rootless or error.errno not in control_files.FORBIDDEN:
                    raise refused(error, APPLYING) from None
                del self.paths[controller]

    def entrance(self) -> Entrance | None:
        """Return how a child of this process gets in by itself; None if some of them it might do without."""
        if self._rootless:
            return None
        from wherry.runc.cgroups.entrance import Entrance

        entrance = Entrance()
        try:
            for controller, path in self._targets(()):
                if controller:
                    entrance.open_tasks(path)
                else:
                    entrance.open(path)
        except OSError:
            entrance.close()
            return None
        return entrance

    def join(self, pid: int, sub: Sequence[str] = (), *, beside: int = 0) -> None:
        """Move a process into them, or into those below them that `sub` names as `runc exec --cgroup` does.

        A new container's process must get into each; one of an existing container into those that are there still.
        Unknown.
        """
        prefix = APPLYING if self._new else ADDING.format(pid=pid)
        for controller, path in self._targets(sub):
            try:
                control_files.attach(path, pid)
            except OSError as error:
                if self._new:
                    if self._may_do_without and self._rootless and error.errno in control_files.FORBIDDEN:
                        self.paths.pop(controller, None)
                        continue
                elif self._rootless or (not sub and error.errno == errno.ENOENT):
                    continue
                raise refused(error, prefix) from None

    def _targets(self, sub: Sequence[str]) -> Iterator[tuple[str, str]]:
        wanted = sub_paths(sub)
        if unknown := [name for name in wanted if name and name not in self.paths]:
            raise Unknown(f"unknown controller {unknown[0]} in SubCgroupPaths")
        seen = set()
        everywhere = wanted[""] if len(wanted) == 1 and "" in wanted else ""
        for controller, path in self.paths.items():
            if inner := wanted.get(controller, everywhere):
                path = below(path, inner)
            if path not in seen:
                seen.add(path)
                yield controller, path

    def set(self, resources: Mapping[str, Any]) -> None:
        """Set the limits of a LinuxResources document; what it does not name, and what is 0, stays as it is.

        For a cgroup that `create` was called on it is all that there is to say of devices: with none named, the default
        ones are allowed. For one that was loaded devices stay as they are if none are named.
        Unknown.
        """
        if resources.get("unified"):
            raise Unknown("invalid configuration: cannot use unified on cgroup v1")
        with_devices = self._new or resources.get("devices") is not None
        with setting(self._new):
            # Which an unprivileged user may not say, nor needs to: he makes no nodes.
            if with_devices and not (self._rootless or in_user_namespace()):
                wanted = policy(resources.get("devices") or ())
                if "devices" not in self.paths:
                    raise Unknown(_NOT_THERE.format("devices"))
                set_devices(self.paths["devices"], wanted)
            for controller, setter in v1_limits.SETTERS:
                path = self.paths.get(controller, "")
                try:
                    if controller == "hugetlb" and not path and resources.get("hugepageLimits") and "" in self.paths:
                        self._set_hugetlb_of_v2(resources)
                    else:
                        setter(path, resources)
                except OSError:
                    if path:
                        raise
                    raise Unknown(_NOT_THERE.format(controller)) from None

    def _set_hugetlb_of_v2(self, resources: Mapping[str, Any]) -> None:
        """Set the limits of huge pages in a hybrid system that has their controller in v2's hierarchy."""
        from wherry.runc.cgroups import v2_limits

        path = self.paths[""]
        above = hierarchies().unified
        if "hugetlb" not in control_files.text(path, "cgroup.controllers").split():
            for name in os.path.relpath(os.path.dirname(path), above).split("/"):
                above = os.path.normpath(f"{above}/{name}")
                control_files.write(above, "cgroup.subtree_control", "+hugetlb")
        v2_limits.set_hugetlb(path, resources)

    def freeze(self) -> None:
        """Stop all processes. Returns when they are. Unknown."""
        if "freezer" not in self.paths:
            raise Unknown("cannot toggle freezer: cgroups not configured for container")
        try:
            freezer.freeze_v1(self.paths["freezer"])
        except OSError as error:
            raise refused(error) from None

    def thaw(self) -> None:
        """Let them run. Unknown."""
        if "freezer" not in self.paths:
            raise Unknown("cannot toggle freezer: cgroups not configured for container")
        try:
            freezer.thaw_v1(self.paths["freezer"])
        except OSError as error:
            raise refused(error) from None

    def frozen(self) -> bool:
        """Tell whether they are stopped. False if the cgroup is gone. Unknown."""
        if "freezer" not in self.paths:
            return False
        try:
            return freezer.frozen_v1(self.paths["freezer"])
        except OSError as error:
            raise refused(error) from None

    def exists(self) -> bool:
        """Tell whether the cgroup is there."""
        path = self.paths.get("devices") or next(iter(self.paths.values()), "")
        return bool(path) and os.path.isdir(path)

    def pids(self) -> list[int]:
        """Return the processes of it and of all below it. None if it is gone. Unknown."""
        path = self.paths.get("devices") or next(iter(self.paths.values()), "")
        try:
            return control_files.processes(path) if path else []
        except OSError as error:
            raise refused(error) from None

    def kill(self, signal: int) -> None:
        """Send a signal to all processes; none that they fork meanwhile is left out. Unknown."""
        try:
            self.freeze()
        except Unknown:
            stopped = False  # no freezer, or not ours to write to: then as often as new ones come
        else:
            stopped = True
        try:
            send(self.pids, signal, once=stopped or signal != SIGKILL)
        finally:
            if stopped:
                self.thaw()

    def stats(self) -> dict[str, Any]:
        """Return the figures that `runc events --stats` has under "data". What a kernel does not have is 0."""
        from wherry.runc.cgroups.stats import stats_v1

        return stats_v1(self.paths)

    def oom(self) -> OomNotice:
        """Return what tells of the OOM killer. Unknown without a memory controller."""
        from wherry.runc.cgroups.oom import notice_v1

        if "memory" not in self.paths:
            raise Unknown("cgroup: memory controller is not available")
        try:
            return notice_v1(self.paths["memory"])
        except OSError as error:
            raise refused(error) from None

    def oom_kills(self) -> int:
        """Return how many processes of it the OOM killer has ended. 0 where the kernel does not say."""
        return dict(control_files.pairs(self.paths.get("memory", ""), "memory.oom_control")).get("oom_kill", 0)

    def delete(self) -> None:
        """Remove the directories with those below them. Fine if they are gone. Unknown if processes are in them yet."""
        try:
            control_files.remove(list(dict.fromkeys(self.paths.values())))
        except OSError as error:
            raise refused(error) from None


def new_v1(path: str, id: str, *, rootless: bool) -> CgroupV1:
    """Return the cgroups of a container. No directory is made yet. Unknown if there is no devices controller.

    An absolute path is below each hierarchy's top, a relative one below the cgroup that this process is in; with none
    it is the container's id, below this process's.
    """
    mounted = hierarchies()
    inner = clean(path) or clean(id)
    points = dict(mounted.by_controller)
    if mounted.unified:
        points[""] = (mounted.unified, "/")
    if "devices" not in points and not rootless:
        raise Unknown("cgroup: devices controller is not mounted")
    if inner.startswith("/"):
        paths = {controller: f"{point}{inner}".rstrip("/") for controller, (point, _top) in points.items()}
    else:
        own = own_cgroups()
        paths = {}
        for controller, (point, top) in points.items():
            if controller in own:
                # In a container its own cgroup is the mount's top, while the kernel may tell the host's path of it.
                here = os.path.relpath(own[controller], top)
                paths[controller] = os.path.normpath(f"{point}/{here}/{inner}")
    return CgroupV1(paths, rootless=rootless, may_do_without=not path)


def _inherit_cpuset(path: str) -> None:
    """Give a cpuset that has no cpus or memory nodes those of the one above: it would take no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        _inherited(path, name)


def _inherited(path: str, name: str) -> str:
    value = control_files.read(path, name).strip()
    if not value:
        value = _inherited(os.path.dirname(path), name)
        control_files.write(path, name, value)
    return value

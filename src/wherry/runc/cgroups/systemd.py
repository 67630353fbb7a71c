"""A container's cgroups with systemd in charge: a transient unit of it. org.freedesktop.systemd1(5), systemd.scope(5).

systemd makes the cgroup and moves the first process; what it has no property for is written beside it.
"""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.runc.cgroups import bus
from wherry.runc.cgroups.annotations import annotation_properties
from wherry.runc.cgroups.hierarchies import ROOT, hierarchies, own_cgroups
from wherry.runc.cgroups.members import APPLYING, setting
from wherry.runc.cgroups.properties import cpu_bandwidth, resource_properties
from wherry.runc.cgroups.v1 import CgroupV1
from wherry.runc.cgroups.v2 import CgroupV2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.cgroups.oom import OomNotice
    from wherry.runc.cgroups.properties import Property

    Files = CgroupV1 | CgroupV2


class SystemdCgroup:
    """A unit, and its cgroups as the kernel has them."""

    __slots__ = ("_asked", "_files", "_new", "_resources", "_rootless", "_slice", "_started", "systemd_unit")

    def __init__(self, files: Files, unit: str, slice: str, *, rootless: bool, asked: Sequence[Property] = ()) -> None:
        """`asked` are properties for a new unit; of one that is named twice the last one stands."""
        self._asked = asked
        self.systemd_unit = unit
        self._files = files
        self._slice = slice
        self._rootless = rootless
        self._resources: Mapping[str, Any] = {}
        self._new = False
        self._started = False

    @property
    def version(self) -> int:
        """1 or 2."""
        return self._files.version

    @property
    def paths(self) -> dict[str, str]:
        """The directories, as those of the file drivers."""
        return self._files.paths

    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """Note what is wanted: a scope begins with its first process, in `join`."""
        self._new = True
        self._resources = resources or {}

    def entrance(self) -> Entrance | None:
        """Return how a further process gets in by itself. The first one is brought in by systemd: None."""
        return None if self._new else self._files.entrance()

    def join(self, pid: int, sub: Sequence[str] = (), *, beside: int = 0) -> None:
        """Start the unit with a process in it; or, if there is one, move a further process into its cgroups."""
        if self._new and not self._started:
            self._start(pid)
            self._files.create(self._resources)
        self._files.join(pid, sub, beside=beside)

    def _start(self, pid: int) -> None:
        unit = self.systemd_unit
        properties: list[Property] = [("Description", ("s", f"libcontainer container {unit}"))]
        if unit.endswith(".slice"):
            properties.append(("Wants", ("as", [self._slice])))
        else:
            properties.append(("Slice", ("s", self._slice)))
            properties.append(("Delegate", ("b", True)))
        properties.append(("PIDs", ("au", [pid])))
        accounting = "IOAccounting" if self.version == 2 else "BlockIOAccounting"
        for name in ("MemoryAccounting", "CPUAccounting", accounting, "TasksAccounting"):
            properties.append((name, ("b", True)))
        properties.append(("DefaultDependencies", ("b", False)))
        properties += self._asked
        arguments: tuple[Any, ...] = (unit, "replace", properties, [])
        connection = bus.connect(user=self._rootless)
        try:
            try:
                result = connection.run_job("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
            except bus.BusError as error:
                if not error.name.endswith(".UnitExists"):
                    raise
                # It may be what is left of one that failed.
                _reset(connection, unit)
                result = connection.run_job("StartTransientUnit", "ssa(sv)a(sa(sv))", arguments)
            if result != "done":
                _reset(connection, unit)
                raise Unknown(f"error creating systemd unit `{unit}`: got `{result}`")
        except bus.BusError as error:
            raise Unknown(f'{APPLYING}unable to start unit "{unit}": {error.message}') from None
        finally:
            connection.close()
        self._started = True

    def set(self, resources: Mapping[str, Any]) -> None:
        """Set the limits of a LinuxResources document, as the unit's properties and in the cgroups.

        What it does not name, and what is 0, stays as it is; devices as with `Cgroup.set`. Unknown.
        """
        if self.version == 1 and resources.get("unified"):
            raise Unknown("invalid configuration: cannot use unified on cgroup v1")
        devices = self._new or resources.get("devices") is not None
        with setting(self._new):
            properties = resource_properties(
                resources, self.version, devices=devices, bandwidth=cpu_bandwidth(resources, self._files.paths)
            )
            self._set_properties(properties, devices=devices)
        self._files.set(resources)

    def _set_properties(self, properties: list[Property], *, devices: bool) -> None:
        if properties:
            # systemd takes cgroup v1's devices all away and gives them back one after the other.
            stopped = self.version == 1 and devices and not self._new and not self._files.frozen()
            if stopped:
                self._files.freeze()
            connection = bus.connect(user=self._rootless)
            try:
                connection.call("SetUnitProperties", "sba(sv)", (self.systemd_unit, True, properties))
            except bus.BusError as error:
                raise Unknown(f"unable to set unit properties: {error.message}") from None
            finally:
                connection.close()
                if stopped:
                    self._files.thaw()

    def freeze(self) -> None:
        """Stop all processes. Returns when they are. Unknown."""
        self._files.freeze()

    def thaw(self) -> None:
        """Let them run. Unknown."""
        self._files.thaw()

    def frozen(self) -> bool:
        """Tell whether they are stopped. False if the cgroup is gone. Unknown."""
        return self._files.frozen()

    def exists(self) -> bool:
        """Tell whether the cgroup is there."""
        return self._files.exists()

    def pids(self) -> list[int]:
        """Return the processes of it and of all below it. None if it is gone. Unknown."""
        return self._files.pids()

    def kill(self, signal: int) -> None:
        """Send a signal to all processes; none that they fork meanwhile is left out. Unknown."""
        self._files.kill(signal)

    def stats(self) -> dict[str, Any]:
        """Return the figures that `runc events --stats` has under "data"."""
        return self._files.stats()

    def oom(self) -> OomNotice:
        """Return what tells of the OOM killer. Unknown without a memory controller."""
        return self._files.oom()

    def oom_kills(self) -> int:
        """Return how many processes of it the OOM killer has ended. 0 where the kernel does not say."""
        return self._files.oom_kills()

    def delete(self) -> None:
        """Stop the unit and remove what is left of the cgroups. Fine if they are gone. Unknown."""
        if self._new and not self._started:
            return  # a unit of the name is another one's
        connection = bus.connect(user=self._rootless)
        try:
            try:
                connection.run_job("StopUnit", "ss", (self.systemd_unit, "replace"))
            except bus.BusError as error:
                if not error.name.endswith((".NoSuchUnit", ".NotLoaded")):
                    raise Unknown(f"unable to stop unit {self.systemd_unit}: {error.message}") from None
            _reset(connection, self.systemd_unit)
        finally:
            connection.close()
        self._files.delete()


def _reset(connection: bus.Bus, unit: str) -> None:
    """Let systemd forget a unit that failed."""
    try:
        connection.call("ResetFailedUnit", "s", (unit,))
    except bus.BusError:
        pass  # it did not fail, or is forgotten


def new_systemd(path: str, id: str, *, rootless: bool, annotations: Mapping[str, str]) -> SystemdCgroup:
    """Return the unit that a container is to have; nothing is made yet. Unknown, InvalidArgument for an annotation.

    `path` is "SLICE:PREFIX:NAME"; a NAME that ends in ".slice" is a slice of its own, else it is PREFIX-NAME.scope.
    """
    parts = path.split(":") if path else ["", "runc", id]
    if len(parts) != 3:
        raise Unknown(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
        )
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        raise Unknown("systemd not running on this host, cannot use systemd cgroups manager")
    slice, prefix, name = parts
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    if "/" in unit:
        raise Unknown(f"invalid unit name: {unit}")
    version = hierarchies().version
    slice = slice or ("user.slice" if rootless and version == 2 else "system.slice")
    inner = f"{slice_path(slice)}/{unit}"
    files: Files
    if version == 2:
        above = ""
        if rootless:
            connection = bus.connect(user=True)
            try:
                above = connection.manager_property("ControlGroup")
            finally:
                connection.close()
        files = CgroupV2(os.path.normpath(f"{ROOT}{above}{inner}"), rootless=rootless)
    else:
        files = CgroupV1(_v1_paths(inner), rootless=rootless)
    return SystemdCgroup(files, unit, slice, rootless=rootless, asked=annotation_properties(annotations))


def _v1_paths(inner: str) -> dict[str, str]:
    """Below where systemd is in each hierarchy, which is in init.scope where it can be."""
    mounted = hierarchies()
    systemd = own_cgroups(1)
    points = {name: point for name, (point, _top) in mounted.by_controller.items()}
    if mounted.unified:
        points[""] = mounted.unified
    return {
        controller: os.path.normpath(f"{point}{systemd[controller].removesuffix('init.scope')}/{inner}")
        for controller, point in points.items()
        if controller in systemd
    }


def load_systemd(paths: Mapping[str, str], unit: str, *, rootless: bool) -> SystemdCgroup:
    """Return the unit that a container has, by what its state file says."""
    files: Files
    if hierarchies().version == 2:
        files = CgroupV2(paths.get("", ""), rootless=rootless)
    else:
        files = CgroupV1(dict(paths), rootless=rootless)
    return SystemdCgroup(files, unit, "", rootless=rootless)


def slice_path(slice: str) -> str:
    """Return the path of a slice's cgroup: "a-b.slice" is in "a.slice" (systemd.slice(5)). Unknown."""
    name = slice.removesuffix(".slice")
    if name == "-" and slice != name:
        return ""
    words = name.split("-")
    if slice == name or "/" in slice or not all(words):
        raise Unknown(f"invalid slice name: {slice}")
    return "".join(f"/{'-'.join(words[: index + 1])}.slice" for index in range(len(words)))

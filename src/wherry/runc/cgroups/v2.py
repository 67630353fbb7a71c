"""A container's cgroup in the one hierarchy of cgroup v2. Documentation/admin-guide/cgroup-v2.rst of the kernel.

Limits are set by `v2_limits`.
"""

from __future__ import annotations

import errno
import os

from wherry.errors import Unknown
from wherry.runc.cgroups import control_files, freezer, v2_limits
from wherry.runc.cgroups.control_files import refused
from wherry.runc.cgroups.hierarchies import ROOT, clean, in_user_namespace, own_cgroups
from wherry.runc.cgroups.members import ADDING, APPLYING, SIGKILL, below, send, setting, sub_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.cgroups.oom import OomNotice


class CgroupV2:
    """One directory."""

    __slots__ = ("_absent", "_may_do_without", "_new", "_path", "_rootless", "systemd_unit")

    version = 2

    def __init__(self, path: str, *, rootless: bool, may_do_without: bool = False) -> None:
        self.systemd_unit = ""
        self._path = path
        self._rootless = rootless
        #: Nobody named a path: where an unprivileged user can't make it, and sets no limits, there is no cgroup.
        self._may_do_without = may_do_without
        self._new = False
        self._absent = False

    @property
    def paths(self) -> dict[str, str]:
        """The directory, under ""."""
        return {"": self._path}

    def create(self, resources: Mapping[str, Any] | None = None) -> None:
        """Make the directory, in one that has every controller for it; one that exists is joined as it is.

        Unknown. An unprivileged user without a path of his own gets none if he can't have it and sets no limits.
        """
        self._new = True
        try:
            make_below(ROOT, self._path, resources or {})
        except OSError as error:
            if not self._rootless or not self._may_do_without:
                raise refused(error, APPLYING) from None
            if v2_limits.controllers_needed(resources or {}):
                needs = "rootless needs no limits + no cgrouppath when no permission is granted for cgroups: "
                raise refused(error, APPLYING + needs) from None
            self._absent = True

    def entrance(self) -> Entrance | None:
        """Return how a child of this process gets in by itself; None if there might be none for it."""
        if self._rootless:
            return None
        from wherry.runc.cgroups.entrance import Entrance

        entrance = Entrance()
        try:
            entrance.open(self._path)
        except OSError:
            return None
        return entrance

    def join(self, pid: int, sub: Sequence[str] = (), *, beside: int = 0) -> None:
        """Move a process into it, or into the one below it that `sub` names as `runc exec --cgroup` does.

        If it may have no processes, since those below it have controllers, a further process gets into the cgroup
        of the container's init, `beside`. Unknown.
        """
        if self._absent:
            return
        wanted = sub_paths(sub)
        if unknown := [name for name in wanted if name]:
            raise Unknown(f"unknown controller {unknown[0]} in SubCgroupPaths")
        path = below(self._path, wanted[""]) if wanted else self._path
        try:
            control_files.attach(path, pid)
        except OSError as error:
            if not self._new:
                if self._rootless:
                    return
                if beside and not wanted and error.errno == errno.EBUSY and _attached_beside(pid, beside):
                    return
            prefix = APPLYING if self._new else ADDING.format(pid=pid)
            raise refused(error, prefix) from None

    def set(self, resources: Mapping[str, Any]) -> None:
        """Set the limits of a LinuxResources document; what it does not name, and what is 0, stays as it is.

        For a cgroup that `create` was called on it is all that there is to say of devices: with none named, the default
        ones are allowed. For one that was loaded devices stay as they are if none are named.
        Unknown.
        """
        if self._absent:
            return
        with setting(self._new):
            v2_limits.set_limits(self._path, resources)
            if self._new or resources.get("devices") is not None:
                self._set_devices(resources.get("devices") or ())
            v2_limits.set_unified(self._path, resources.get("unified") or {})

    def _set_devices(self, rules: Sequence[Mapping[str, Any]]) -> None:
        from wherry.runc.cgroups.device_filter import filter_devices
        from wherry.runc.cgroups.devices import policy

        try:
            filter_devices(self._path, policy(rules))
        except OSError as error:
            # One without privileges can make no device nodes either, and opens what the host's modes let it.
            if not (self._rootless or in_user_namespace()):
                raise Unknown(f"failed to call BPF_PROG_ATTACH: {(error.strerror or '').lower()}") from None

    def freeze(self) -> None:
        """Stop all processes. Returns when they are. Unknown."""
        try:
            freezer.freeze_v2(self._path)
        except OSError as error:
            raise refused(error) from None

    def thaw(self) -> None:
        """Let them run. Unknown."""
        try:
            freezer.thaw_v2(self._path)
        except OSError as error:
            raise refused(error) from None

    def frozen(self) -> bool:
        """Tell whether they are stopped. False if the cgroup is gone. Unknown."""
        try:
            return freezer.frozen_v2(self._path)
        except OSError as error:
            raise refused(error) from None

    def exists(self) -> bool:
        """Tell whether the cgroup is there."""
        return os.path.isdir(self._path)

    def pids(self) -> list[int]:
        """Return the processes of it and of all below it. None if it is gone. Unknown."""
        try:
            return control_files.processes(self._path)
        except OSError as error:
            raise refused(error) from None

    def kill(self, signal: int) -> None:
        """Send a signal to all processes; none that they fork meanwhile is left out. Unknown."""
        if signal == SIGKILL:
            try:
                control_files.write(self._path, "cgroup.kill", "1")
            except OSError:
                pass  # before Linux 5.14, or not ours to write to
            else:
                return
        try:
            self.freeze()
        except Unknown:
            stopped = False  # not ours to write to: then as often as new ones come
        else:
            stopped = True
        try:
            send(self.pids, signal, once=stopped or signal != SIGKILL)
        finally:
            if stopped:
                self.thaw()

    def stats(self) -> dict[str, Any]:
        """Return the figures that `runc events --stats` has under "data". What a kernel does not have is 0."""
        from wherry.runc.cgroups.stats import stats_v2

        return stats_v2(self._path)

    def oom(self) -> OomNotice:
        """Return what tells of the OOM killer. Unknown without a memory controller."""
        from wherry.runc.cgroups.oom import notice_v2

        try:
            return notice_v2(self._path)
        except OSError as error:
            raise refused(error) from None

    def oom_kills(self) -> int:
        """Return how many processes of it the OOM killer has ended. 0 where the kernel does not say."""
        return dict(control_files.pairs(self._path, "memory.events")).get("oom_kill", 0)

    def delete(self) -> None:
        """Remove the directory with those below it. Fine if it is gone. Unknown if processes are in it yet."""
        if self._path == ROOT:
            return
        try:
            control_files.remove([self._path])
        except OSError as error:
            raise refused(error) from None


def _attached_beside(pid: int, other: int) -> bool:
    try:
        path = own_cgroups(other)[""]
        control_files.attach(f"{ROOT}{path}", pid)
    except (OSError, KeyError):
        return False
    return True


def new_v2(path: str, id: str, *, rootless: bool) -> CgroupV2:
    """Return the cgroup of a container. No directory is made yet.

    An absolute path is below the hierarchy's top, a relative one beside the cgroup that this process is in (which has
    processes, so that those below it could have no controllers); with none it is the container's id there.
    """
    inner = clean(path) or clean(id)
    if not inner.startswith("/"):
        inner = f"{os.path.dirname(own_cgroups()[''])}/{inner}"
    return CgroupV2(os.path.normpath(f"{ROOT}/{inner.lstrip('/')}"), rootless=rootless, may_do_without=not path)


def make_below(root: str, path: str, resources: Mapping[str, Any]) -> None:
    """Make a cgroup, with all controllers enabled on the way from the top to it. OSError, Unknown.

    Where a process in a cgroup above forbids that (admin-guide/cgroup-v2.rst, "No Internal Process Constraint"), it is
    a threaded one, unless a controller that is asked for can't be in one.
    """
    controllers = control_files.read(root, "cgroup.controllers").split()
    above = root
    made = ""
    for name in path[len(root) :].strip("/").split("/"):
        enable(above, controllers)
        current = f"{above}/{name}"
        try:
            os.mkdir(current, 0o755)
        except FileExistsError:
            pass
        except OSError as error:
            raise control_files.marked(error, "mkdir", current) from None
        else:
            made = made or current
        try:
            _check_type(current, resources)
        except BaseException:
            if made:
                control_files.remove([made])
            raise
        above = current


def _check_type(path: str, resources: Mapping[str, Any]) -> None:
    kind = control_files.text(path, "cgroup.type").strip()
    if kind not in ("domain invalid", "domain threaded", "threaded"):
        return
    domain = bool({"memory", "io", "hugetlb"}.intersection(v2_limits.controllers_needed(resources)))
    state = "an invalid state" if kind == "domain invalid" else f"{kind} mode"
    if domain:
        raise Unknown(f'{APPLYING}cannot enter cgroupv2 "{path}" with domain controllers -- it is in {state}')
    if kind == "domain invalid":
        control_files.write(path, "cgroup.type", "threaded")


def enable(path: str, controllers: Sequence[str]) -> None:
    """Enable controllers for the cgroups below one, as many as may be."""
    missing = set(controllers) - set(control_files.text(path, "cgroup.subtree_control").split())
    if not missing:
        return
    try:
        control_files.write(path, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError:
        for name in sorted(missing):
            try:
                control_files.write(path, "cgroup.subtree_control", f"+{name}")
            except OSError:
                pass  # what needs it says so when the limit is set

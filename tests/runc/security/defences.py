"""The runtime's defences, each switched off by a function of its name, for the positive controls of attacks.

Functions that begin with `between_` and `slow_` switch nothing off: they give an attacker the moment that it would have
to hit by chance otherwise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from wherry.linux import detached
from wherry.linux import namespaces as namespaces_module
from wherry.linux import openat2 as openat2_module
from wherry.linux.mount import mount
from wherry.linux.namespaces import CLONE_NEWNS, CLONE_NEWUSER
from wherry.oci.user import home_directory
from wherry.runc import (
    cgroup_mounts,
    console,
    create,
    devices,
    host_proc,
    identity,
    init,
    mounts,
    namespaces,
    process,
    restricted_paths,
    root_path,
    rootfs,
    spec,
)
from wherry.runc import channel as messages
from wherry.runc import exec as exec_module


def _replace(place: Any, name: str, value: object) -> None:
    """Put something in the place of a module's function or a class's method."""
    assert hasattr(place, name), f"{place.__name__}.{name} is not there any more"
    setattr(place, name, value)


# -- the process ------------------------------------------------------------------------------------------------------


def dumpable() -> None:
    """PR_SET_DUMPABLE is left as it is."""
    for module in (init, exec_module, process, namespaces, identity):
        _replace(module, "set_dumpable", lambda _on: None)


def dumpable_always() -> None:
    """PR_SET_DUMPABLE is set: the kernel itself takes it away from who changes its ids."""
    from wherry.linux.process import set_dumpable

    for module in (init, exec_module, process, namespaces, identity):
        _replace(module, "set_dumpable", lambda _on: set_dumpable(True))


def closing() -> None:
    """Descriptors that the runtime was started with stay open."""
    for module in (process, create):
        _replace(module, "close_range", lambda *_range, **_how: None)


def check_cwd() -> None:
    """The working directory may be anywhere."""
    _replace(process, "check_cwd", lambda: None)


def made_cwd() -> None:
    """The working directory is not made where it is missing, by a way that no magic link is on."""
    _replace(rootfs, "make_cwd", lambda _root, _path: None)


def own_passwd_parser() -> None:
    """A user's home is looked up by the C library's name services."""

    def home_of(uid: int) -> str:
        import pwd

        try:
            return pwd.getpwuid(uid).pw_dir
        except KeyError:
            return "/"

    _replace(process, "home_of", home_of)


def passwd_checks() -> None:
    """/etc/passwd is read whatever it is."""

    def home_of(uid: int) -> str:
        with open("/etc/passwd", "rb") as file:
            return home_directory(file.read(), uid)

    _replace(process, "home_of", home_of)


def imports() -> None:
    """A module is imported when the container's root has been entered."""
    original = identity.check_cwd

    def check() -> None:
        import colorsys  # noqa: F401

        original()

    _replace(process, "check_cwd", check)


def id_range() -> None:
    """Ids are of any size."""
    user: Any = spec._PROCESS["user"]
    assert {"uid", "gid"} < set(user)
    user.update(uid=int, gid=int)


def groups() -> None:
    """A user's own group is not among its supplementary ones."""
    original = identity.Identity.__init__

    def initialize(self: identity.Identity, document: Any) -> None:
        original(self, document)
        self.groups = []

    _replace(identity.Identity, "__init__", initialize)


def stage() -> None:
    """A process that is exec'ed is in the container's pid namespace from its first moment, with all capabilities."""
    _replace(exec_module.Execution, "_may_be_traced", lambda _self, _flags: False)


def killed_stage() -> None:
    """A stage is killed when it has made the container's process, and nobody has been told of that."""

    def clone_sibling() -> int:
        if pid := original():
            os.kill(os.getpid(), 9)
        return pid

    original = namespaces_module.clone_sibling
    _replace(exec_module, "clone_sibling", clone_sibling)
    _replace(exec_module, "_HAND_OVER", 1)


def forged_message() -> None:
    """The container's process, which may be traced, tells the runtime what only its stage may."""

    def make_process(self: exec_module.ExecPlan) -> None:
        def clone_sibling() -> int:
            if (pid := original()) == 0:
                self.process.channel.send(messages.PID, "1")
            return pid

        _replace(exec_module, "clone_sibling", clone_sibling)
        make(self)

    original, make = namespaces_module.clone_sibling, exec_module.ExecPlan._make_process
    _replace(exec_module.ExecPlan, "_make_process", make_process)


def slow_exec() -> None:
    """The process takes its time right before its program, with the program's ids and capabilities."""
    original = process.ProcessPlan.execute

    def execute(self: process.ProcessPlan, program: str) -> None:
        time.sleep(0.4)
        original(self, program)

    _replace(process.ProcessPlan, "execute", execute)


def slow_entry() -> None:
    """A process that is exec'ed takes its time when it has entered the container's namespaces."""
    original = exec_module.ExecPlan._enter_namespaces

    def enter(self: exec_module.ExecPlan) -> None:
        original(self)
        if self.flags & CLONE_NEWUSER:
            self.process.enter_user_namespace(has_user_zero=True, has_group_zero=True)
        time.sleep(0.4)

    _replace(exec_module.ExecPlan, "_enter_namespaces", enter)


# -- paths in the root file system ------------------------------------------------------------------------------------


def resolution() -> None:
    """Paths are opened with the links in them followed, out of the root as well."""

    def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=root)

    for module in (root_path, openat2_module, mounts):
        _replace(module, "open_in_root", open_in_root)


def _by_name(root: int, path: str, *, is_directory: bool) -> int:
    """Make a path as one does who trusts its names, and open what is there now."""
    whole = os.path.join(os.readlink(f"/proc/self/fd/{root}"), path.lstrip("/"))
    if is_directory:
        os.makedirs(whole, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        os.close(os.open(whole, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o755))
    return os.open(whole, os.O_PATH | os.O_CLOEXEC)


def descriptors() -> None:
    """Directories and files below the root are made and opened by their paths."""
    for module in (mounts, rootfs, cgroup_mounts, devices, init, root_path):
        if hasattr(module, "make_directory"):
            _replace(module, "make_directory", lambda root, path, *_mode: _by_name(root, path, is_directory=True))
    for module in (mounts, console, devices, root_path):
        if hasattr(module, "make_file"):
            _replace(module, "make_file", lambda root, path, *_mode: _by_name(root, path, is_directory=False))


def ordinary_directory() -> None:
    """proc and sysfs are mounted wherever links lead."""
    _replace(mounts, "_real_directory", root_path.make_directory)


def between_steps(names: str) -> None:
    """Exchange two names, `A:B`, when a path's resolution has reached the first for the first time."""
    one, other = names.split(":")
    done: list[bool] = []

    def exchange() -> None:
        if not done:
            done.append(True)
            os.rename(one, f"{one}.kept")
            os.rename(other, one)

    inode = os.stat(one).st_ino
    original_by_name, original_open = globals()["_by_name"], root_path.open_path

    def by_name(root: int, path: str, *, is_directory: bool) -> int:
        # Who goes by names has looked at the path before.
        if path.startswith("/shared"):
            exchange()
        return int(original_by_name(root, path, is_directory=is_directory))

    def open_path(root: int, path: str, flags: int = 0) -> int:
        fd = original_open(root, path, flags)
        if os.fstat(fd).st_ino == inode:
            exchange()
        return fd

    globals()["_by_name"] = by_name
    for module in (root_path, mounts, restricted_paths, console):
        _replace(module, "open_path", open_path)


def proc_checks() -> None:
    """Anything may be mounted on /proc and below it."""
    _replace(mounts, "_check_destination", lambda _prepared: None)
    _replace(mounts, "_check_proc", lambda _prepared: None)


# -- /proc and what covers paths ---------------------------------------------------------------------------------------


def proc_descriptor() -> None:
    """Labels and sysctls are written by the name /proc, whatever is there by then."""

    def write(_self: host_proc.HostProc, path: str, text: str) -> None:
        with open(f"/proc/{path}", "w") as file:
            file.write(text)

    def write_own(_self: host_proc.HostProc, path: str, text: str) -> None:
        with open(f"/proc/self/{path}", "w") as file:
            file.write(text)

    _replace(host_proc.HostProc, "write", write)
    _replace(host_proc.HostProc, "write_own", write_own)


def proc_resolution() -> None:
    """What is mounted over a file of /proc is written to in its place."""
    original = openat2_module.openat2

    def openat2(fd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
        return original(fd, path, flags, mode, 0)

    _replace(host_proc, "openat2", openat2)


def own_null() -> None:
    """Files are masked by what the container has at /dev/null."""
    original = restricted_paths.mask_paths

    def mask_paths(root: int, paths: Any, label: str) -> None:
        def open_tree(path: str, *, dir_fd: int = -100, recursive: bool) -> int:
            if path != "/dev/null":
                return detached.open_tree(path, dir_fd=dir_fd, recursive=recursive)
            found = root_path.open_path(root, path)
            try:
                return detached.open_tree("", dir_fd=found, recursive=recursive)
            finally:
                os.close(found)

        class Opened:
            def __getattr__(self, name: str) -> Any:
                return open_tree if name == "open_tree" else getattr(detached, name)

        _replace(restricted_paths, "detached", Opened())
        original(root, paths, label)

    _replace(init, "mask_paths", mask_paths)


def terminal_by_descriptor() -> None:
    """A terminal is found by its number in the container's /dev/pts."""

    def open_console(root: int, *_more: object) -> tuple[int, int]:
        place = os.readlink(f"/proc/self/fd/{root}")
        master = os.open(f"{place}/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        slave = os.open(f"{place}/dev/pts/0", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        return master, slave

    _replace(init, "open_console", open_console)
    _replace(process, "take_console", lambda _slave, **_how: None)


def reopening() -> None:
    """A descriptor is opened again by the name that the container's /proc has for it."""

    def reopen(_self: host_proc.HostProc, fd: int, flags: int) -> int:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC)

    _replace(host_proc.HostProc, "reopen", reopen)


def own_cgroup() -> None:
    """What is mounted without a cgroup namespace is the host's hierarchy, for writing."""
    original = cgroup_mounts._bind

    def bind(source: str, target: int, _flags: int) -> None:
        # /sys/fs/cgroup for v2, /sys/fs/cgroup/pids and so on for v1.
        depth = 4 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 5
        original("/".join(source.split("/")[:depth]), target, 0)

    _replace(cgroup_mounts, "_bind", bind)


def own_cgroup_namespace() -> None:
    """Where a hierarchy of v2 cannot be mounted, that of the host's is bound."""

    def mount_v2(target: int, _cgroups: object, flags: int) -> None:
        cgroup_mounts._bind("/sys/fs/cgroup", target, flags)

    _replace(cgroup_mounts, "_mount_v2", mount_v2)


def new_namespaces() -> None:
    """The container has the host's namespaces but for mounts: what an overflow of the bootstrap message led to."""
    original = namespaces.Namespaces.__init__

    def initialize(self: namespaces.Namespaces, *args: Any) -> None:
        original(self, *args)
        self.new &= CLONE_NEWNS

    _replace(namespaces.Namespaces, "__init__", initialize)


# -- what is seen of a mount before the root is entered ----------------------------------------------------------------


def reporting_mounts(report: str) -> None:
    """Write the process's mount table to a file of the host's, when all is mounted and nothing entered yet."""
    fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.set_inheritable(fd, False)
    original: Callable[..., None] = rootfs.mount_all

    def mount_all(prepared: Any, root: int, wait: Callable[[], None]) -> None:
        try:
            original(prepared, root, wait)
        finally:
            with open("/proc/self/mountinfo", "rb") as file, open(report, "wb") as out:
                out.write(file.read())

    _replace(rootfs, "mount_all", mount_all)


def overmounted_proc(files: str) -> None:
    """In a mount namespace of this process's, put one file over another, `OVER:UNDER`: what a racing container does."""
    from wherry.linux.mount import MS_BIND, MS_PRIVATE, MS_REC, set_propagation
    from wherry.linux.namespaces import unshare

    over, under = files.split(":")
    unshare(CLONE_NEWNS)
    set_propagation("/", MS_REC | MS_PRIVATE)
    mount(over, under, "bind", MS_BIND)

"""The first process of a container, from its clone to its program.

A copy of the runtime, in the container's namespaces. OCI runtime specification, runtime.md, "Lifecycle"; the order is
that of what each step needs: see docs/runc.md.
"""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.linux.loopback import bring_up_loopback
from wherry.linux.namespaces import CLONE_NEWCGROUP, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, unshare
from wherry.linux.process import set_dumpable
from wherry.linux.uts import set_domain_name, set_host_name
from wherry.oci import json_text
from wherry.runc import channel as messages
from wherry.runc import rootfs
from wherry.runc.channel import ChannelClosed
from wherry.runc.console import mount_console, open_console, send_master
from wherry.runc.devices import make_devices, make_links
from wherry.runc.gate import wait_at_gate
from wherry.runc.hooks import run_hooks
from wherry.runc.host_proc import HostProc
from wherry.runc.namespaces import complete
from wherry.runc.restricted_paths import mask_paths, protect_paths
from wherry.runc.root_path import make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.devices import Device
    from wherry.runc.id_maps import IdMaps
    from wherry.runc.mounts import PreparedMount
    from wherry.runc.namespaces import Namespaces
    from wherry.runc.process import ProcessPlan


class InitPlan:
    """All that the process needs to know, worked out by the runtime before there is a process."""

    __slots__ = (
        "_is_in_cgroup",
        "create_container_hooks",
        "devices",
        "domainname",
        "entrance",
        "gate",
        "has_runtime_hooks",
        "hostname",
        "id_maps",
        "label",
        "masked_paths",
        "mounts",
        "namespaces",
        "pivot",
        "process",
        "propagation",
        "read_only",
        "read_only_paths",
        "root",
        "start_container_hooks",
        "state",
        "sysctls",
    )

    def __init__(self, spec: Mapping[str, Any], process: ProcessPlan, namespaces: Namespaces) -> None:
        linux = spec.get("linux") or {}
        hooks = spec.get("hooks") or {}
        self.process = process
        self.namespaces = namespaces
        self.id_maps: IdMaps | None = None
        self.root = ""
        self.read_only = bool(spec["root"].get("readonly"))
        self.propagation = rootfs.PROPAGATIONS[linux.get("rootfsPropagation") or ""]
        self.pivot = True
        self.mounts: list[PreparedMount] = []
        #: None: /dev is the host's business, bound as it is.
        self.devices: list[Device] | None = None
        self.hostname: str = spec.get("hostname") or ""
        self.domainname: str = spec.get("domainname") or ""
        self.sysctls: Mapping[str, str] = linux.get("sysctl") or {}
        self.masked_paths: Sequence[str] = linux.get("maskedPaths") or ()
        self.read_only_paths: Sequence[str] = linux.get("readonlyPaths") or ()
        self.label: str = linux.get("mountLabel") or ""
        self.has_runtime_hooks = bool(hooks.get("prestart") or hooks.get("createRuntime"))
        self.create_container_hooks: Sequence[Mapping[str, Any]] = hooks.get("createContainer") or ()
        self.start_container_hooks: Sequence[Mapping[str, Any]] = hooks.get("startContainer") or ()
        #: What hooks are told, but for pid and status.
        self.state: Mapping[str, Any] = {}
        #: The listener that is waited at until the start.
        self.gate = -1
        #: How it gets into its cgroup by itself; None where the runtime moves it.
        self.entrance: Entrance | None = None
        self._is_in_cgroup = False

    def run(self) -> NoReturn:
        """Become the container's first process."""
        try:
            self._run()
        except Unknown as error:
            self._fail(error.message)
        except ChannelClosed:
            os._exit(1)  # the runtime was killed: nobody is to be told
        except OSError as error:
            name = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
            self._fail(f"{(error.strerror or '').lower()}{name and ':' + name}")
        except BaseException as error:  # nothing may escape into the code of whoever was copied
            self._fail(f"{type(error).__name__}: {error}")
        finally:
            os._exit(1)

    def _fail(self, reason: str) -> None:
        channel = self.process.channel
        try:
            if channel.fd >= 0:
                channel.send(messages.ERROR, reason)
            else:  # it was started: the program's own standard error is left
                os.write(2, f"{reason}\n".encode(errors="surrogateescape"))
        except (OSError, ChannelClosed):
            os._exit(1)

    def _run(self) -> None:
        process, spaces = self.process, self.namespaces
        privileged = os.geteuid() == 0
        if privileged:
            set_dumpable(False)
        process.begin(self._descriptors())
        process.channel.expect(messages.GO)
        if spaces.has & CLONE_NEWUSER:
            maps = self.id_maps
            process.enter_user_namespace(
                has_user_zero=maps is None or maps.has_user(0), has_group_zero=maps is None or maps.has_group(0)
            )
        else:
            set_dumpable(False)
        complete(spaces)
        os.setsid()
        process.take_keyring()
        if spaces.new & CLONE_NEWNET:
            bring_up_loopback()
        proc = HostProc()
        self._enter_root(proc)
        if self.hostname:
            set_host_name(self.hostname)
        if self.domainname:
            set_domain_name(self.domainname)
        proc.set_sysctls(self.sysctls)
        process.take_limits()
        if process.console < 0:
            process.take_null(proc)
        program = process.become(proc)
        process.channel.send(messages.READY)
        process.channel.close()
        wait_at_gate(self.gate)
        run_hooks(self.start_container_hooks, self._state("created"), process.cwd, environment=process.environment)
        process.make_ready()
        try:
            process.execute(program)
        except OSError as error:
            raise Unknown(f"exec {program}: {(error.strerror or '').lower()}") from None

    def _enter_cgroup(self) -> None:
        """Be in the cgroup, with its limits, and have a namespace of it if there is to be one."""
        if self._is_in_cgroup:
            return
        self.process.channel.expect(messages.JOINED)
        self.process.enter_cgroup(self.entrance)
        self._is_in_cgroup = True
        if self.namespaces.new & CLONE_NEWCGROUP:
            unshare(CLONE_NEWCGROUP)

    def _descriptors(self) -> list[int]:
        trees = [each.tree for each in self.mounts if each.tree >= 0]
        doors = self.entrance.tasks if self.entrance is not None else ()
        return [self.gate, *self.namespaces.joined.values(), *trees, *doors]

    def _state(self, status: str) -> bytes:
        return json_text.dumps({**self.state, "status": status, "pid": os.getpid()}).encode()

    def _enter_root(self, proc: HostProc) -> None:
        """Prepare the root file system and enter it: from then on no path of the host's is within reach."""
        process = self.process
        has_namespace = bool(self.namespaces.has & CLONE_NEWNS)
        if has_namespace:
            root = rootfs.open_root(self.root, self.propagation)
        else:
            root = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        rootfs.mount_all(self.mounts, root, self._enter_cgroup)
        self._enter_cgroup()
        slave = -1
        if self.devices is not None:
            make_devices(root, self.devices, bind=bool(self.namespaces.has & CLONE_NEWUSER))
            dev = make_directory(root, "/dev")
            make_links(dev)
            os.close(dev)
        if self.has_runtime_hooks:
            process.channel.send(messages.HOOKS)
            process.channel.expect(messages.GO)
        if self.create_container_hooks:
            state = self._state("creating")
            run_hooks(self.create_container_hooks, state, self.root, environment=process.environment)
        if process.console >= 0:
            master, slave = open_console(root, process.console_size, proc)
            if self.devices is not None:
                mount_console(root, slave)
            send_master(process.console, master, "/dev/ptmx")
            os.close(master)
            os.close(process.console)
        protect_paths(root, self.read_only_paths)
        mask_paths(root, self.masked_paths, self.label)
        rootfs.make_cwd(root, process.cwd)
        rootfs.enter(root, pivot=self.pivot, has_namespace=has_namespace)
        os.close(root)
        if has_namespace:
            rootfs.finish_mounts(self.mounts)
            if self.read_only:
                rootfs.make_root_read_only()
        if slave >= 0:
            process.take_terminal(slave)
            os.close(slave)

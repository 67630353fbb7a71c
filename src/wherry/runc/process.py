"""The process of a container, init or exec: what both do between their clone and their program.

Everything here runs in a copy of the runtime that will never return to it: nothing may be imported, and nothing that it
was copied with is used but what its plan names.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.errors import Unknown
from wherry.linux import keyring, personality, scheduler, signals
from wherry.linux.descriptors import close_range
from wherry.linux.process import set_dumpable, set_name
from wherry.linux.seccomp import load_filter
from wherry.runc import channel as messages
from wherry.runc.console import give_stdio, take_console
from wherry.runc.identity import Identity, check_cwd, environment, find_program, home_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.channel import Channel
    from wherry.runc.host_proc import HostProc
    from wherry.runc.seccomp import Filter


_NULL = os.makedev(1, 3)


def _is_null(fd: int) -> bool:
    found = os.fstat(fd)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL


class ProcessPlan:
    """A process document of the specification, as far as it can be worked out before there is a process."""

    __slots__ = (
        "affinity",
        "apparmor",
        "args",
        "channel",
        "console",
        "console_size",
        "cwd",
        "environment",
        "filter",
        "identity",
        "io_priority",
        "is_stage",
        "may_set_groups",
        "personality",
        "preserve_fds",
        "scheduler",
        "selinux",
        "session_keyring",
        "signals",
        "stdio",
    )

    def __init__(self, process: Mapping[str, Any], channel: Channel, stdio: Sequence[int]) -> None:
        #: The process's end.
        self.channel = channel
        #: What become its descriptors 0, 1 and 2.
        self.stdio = list(stdio)
        #: So many descriptors from 3 on are for the program.
        self.preserve_fds = 0
        self.args: list[str] = list(process.get("args") or ())
        self.environment = environment(process)
        self.cwd: str = process.get("cwd") or "/"
        self.identity = Identity(process)
        #: Whether the user namespace lets it.
        self.may_set_groups = True
        #: A connection on which the terminal's master is sent; -1 without a terminal.
        self.console = -1
        self.console_size: Mapping[str, int] | None = process.get("consoleSize")
        self.apparmor: str = process.get("apparmorProfile") or ""
        self.selinux: str = process.get("selinuxLabel") or ""
        self.filter: Filter | None = None
        #: The name of a new session keyring, "" for none.
        self.session_keyring = ""
        self.scheduler: Mapping[str, Any] | None = process.get("scheduler")
        self.io_priority: Mapping[str, Any] | None = process.get("ioPriority")
        self.personality: Mapping[str, Any] | None = None
        self.affinity: set[int] = set()
        #: Whether the process is not the container's but makes that one, as a copy of what it has become by then.
        self.is_stage = False
        #: What the process has to set back.
        self.signals = signals.changed_signals()

    # -- at its beginning ---------------------------------------------------------------------------------------------

    def begin(self, keep: Iterable[int]) -> None:
        """Leave behind what belongs to the runtime: its descriptors but some, its signals, its mask."""
        set_name("wherry-runc:init")
        signals.block_none()
        for number in self.signals:
            signals.set_default(number)
        os.umask(0)
        self._take_stdio()
        first = 3 + self.preserve_fds
        for fd in sorted({self.channel.fd, self.console, *keep}):
            if fd >= first:
                close_range(first, fd - 1)
                first = fd + 1
        close_range(first)

    def _take_stdio(self) -> None:
        """Make the given descriptors 0, 1 and 2, whatever numbers they have now."""
        lifted = [os.dup(fd) if fd < 3 else fd for fd in self.stdio]
        for number, fd in enumerate(lifted):
            os.dup2(fd, number)
        for fd in (self.channel.fd, self.console):
            assert fd < 0 or fd > 2, "a descriptor of the runtime's is one of the standard streams"

    def enter_cgroup(self, entrance: Entrance | None) -> None:
        """Get into the cgroup. The runtime brings this process there where the kernel refuses that. Unknown."""
        if entrance is None:
            return
        if entrance.is_usable and not entrance.enter():
            self.channel.send(messages.OUTSIDE)
            self.channel.expect(messages.GO)
        entrance.close_tasks()

    def take_limits(self) -> None:
        """Take what the kernel gives a process by its pid. Unknown, naming the field."""
        try:
            if self.io_priority:
                scheduler.set_io_priority(self.io_priority.get("class") or "", self.io_priority.get("priority") or 0)
            if not (self.is_stage and self.loses_scheduler):
                self.set_scheduler(0)
            if self.affinity:
                os.sched_setaffinity(0, self.affinity)
            if self.personality:
                personality.set_personality(self.personality.get("domain") or "", self.personality.get("flags") or ())
        except OSError as error:
            raise Unknown(f"scheduler, ioPriority, affinity or personality: {(error.strerror or '').lower()}") from None

    @property
    def loses_scheduler(self) -> bool:
        """Whether a process that is forked has another scheduling policy, or may not be forked at all: sched(7)."""
        wanted = self.scheduler or {}
        return wanted.get("policy") == "SCHED_DEADLINE" or "SCHED_FLAG_RESET_ON_FORK" in (wanted.get("flags") or ())

    def set_scheduler(self, pid: int) -> None:
        """Give a process, 0 being this one, the scheduling policy of its document. OSError, InvalidArgument."""
        wanted = self.scheduler
        if wanted:
            scheduler.set_scheduler(
                pid,
                wanted.get("policy") or "",
                wanted.get("nice") or 0,
                wanted.get("priority") or 0,
                wanted.get("flags") or (),
                wanted.get("runtime") or 0,
                wanted.get("deadline") or 0,
                wanted.get("period") or 0,
            )

    def enter_user_namespace(self, *, has_user_zero: bool, has_group_zero: bool) -> None:
        """Be root of a user namespace, if it has one. OSError."""
        if has_group_zero:
            os.setresgid(0, 0, 0)
        if has_user_zero:
            os.setresuid(0, 0, 0)
        set_dumpable(False)

    def take_keyring(self) -> None:
        """Have a session keyring of its own, where the kernel has keyrings. Unknown."""
        if not self.session_keyring:
            return
        try:
            serial = keyring.join_session_keyring(self.session_keyring)
            keyring.set_permissions(serial, keyring.USER_SEARCH)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                reason = (error.strerror or "").lower()
                raise Unknown(f"unable to join session keyring: {reason} (see --no-new-keyring)") from None

    # -- at its end ---------------------------------------------------------------------------------------------------

    def take_null(self, proc: HostProc) -> None:
        """Have the container's /dev/null where a standard stream is the host's: that one would hold a mount of ours.

        CRIU can dump no file of a mount that the container has not. OSError.
        """
        streams = [number for number in (0, 1, 2) if _is_null(number)]
        if not streams:
            return
        try:
            # Only named at first: what the image has there may be anything, and opening it may do anything.
            named = os.open("/dev/null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return  # the image has none: the host's stays
        try:
            if not _is_null(named):
                return
            null = proc.reopen(named, os.O_RDWR | os.O_NOCTTY)
        finally:
            os.close(named)
        for number in streams:
            os.dup2(null, number)
        os.close(null)

    def become(self, proc: HostProc) -> str:
        """Take labels, ids and capabilities, and find the program: its path is returned. Unknown."""
        if self.apparmor:
            proc.set_apparmor_profile(self.apparmor)
        if self.selinux:
            proc.set_selinux_label(self.selinux)
        if self.may_set_groups and proc.denies_groups():
            # An engine that runs without privileges has made it so: it asks for groups of /etc/group all the same.
            self.may_set_groups, self.identity.groups = False, []
        proc.close()
        give_stdio(self.identity.uid)
        if self.filter is not None and not self.identity.no_new_privileges:
            # Without no_new_privs it takes a capability that is about to be dropped.
            self.load_filter()
        if not self.environment.get("HOME"):
            self.environment["HOME"] = home_of(self.identity.uid)
        self.identity.take(cwd=self.cwd, may_set_groups=self.may_set_groups)
        check_cwd()
        program = find_program(self.args[0], self.environment.get("PATH", ""))
        if self.filter is not None and self.filter.notify and self.identity.no_new_privileges:
            self.load_filter()  # while there is somebody to fetch the listener
        return program

    def load_filter(self) -> None:
        """Load the seccomp filter, and have the runtime fetch its listener if it has one. Unknown."""
        assert self.filter is not None
        try:
            listener = load_filter(self.filter.program, self.filter.flags)
        except OSError as error:
            raise Unknown(f"unable to load the seccomp filter: {(error.strerror or '').lower()}") from None
        if self.filter.notify:
            # By its number: of two system calls that the filter could refuse or ask about, write(2) is the likelier
            # one to be allowed.
            self.channel.send(messages.LISTENER, str(listener))
            self.channel.expect(messages.GO)
            os.close(listener)

    @property
    def loads_filter_last(self) -> bool:
        """Whether the filter is loaded right before the program: fewer system calls of ours are subject to it."""
        return self.filter is not None and self.identity.no_new_privileges and not self.filter.notify

    def make_ready(self) -> None:
        """Keep no descriptor but the program's, and the channel if it is open; load the filter. OSError, Unknown."""
        first = 3 + self.preserve_fds
        if self.channel.fd >= first:
            close_range(first, self.channel.fd - 1)
            first = self.channel.fd + 1
        close_range(first)
        for fd in range(3, 3 + self.preserve_fds):
            os.set_inheritable(fd, True)
        if self.loads_filter_last:
            self.load_filter()

    def execute(self, program: str) -> None:
        """Become the program, execve(2). OSError, which can still be told by a channel that is open."""
        os.execve(program, self.args, self.environment)

    def take_terminal(self, slave: int) -> None:
        """Have a terminal as the controlling one and the standard streams. OSError."""
        take_console(slave, controlling=not self.is_stage)

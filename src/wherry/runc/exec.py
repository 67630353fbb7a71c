"""`exec`: another process in a container. Not of the OCI runtime specification; runc's command line defines it."""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument, Unknown
from wherry.linux import signals
from wherry.linux.namespaces import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, clone, setns
from wherry.linux.process import set_dumpable
from wherry.linux.scheduler import parse_cpu_list
from wherry.runc import channel as messages
from wherry.runc.channel import Channel, ChannelClosed, channels
from wherry.runc.console import open_console, send_master
from wherry.runc.create import connect, died, set_process_limits, write_pid_file
from wherry.runc.host_proc import HostProc
from wherry.runc.id_maps import IdMaps
from wherry.runc.namespaces import FILES, FLAGS
from wherry.runc.process import ProcessPlan
from wherry.runc.seccomp import compile_filter
from wherry.runc.spec import check_process
from wherry.runc.state import hook_state, seccomp_cache
from wherry.runc.undo import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.container import Container


class ExecOptions:
    """What the command line adds to a process document."""

    __slots__ = ("cgroups", "console_socket", "ignore_paused", "pid_file", "preserve_fds", "stdio")

    def __init__(
        self,
        *,
        pid_file: str = "",
        console_socket: str = "",
        preserve_fds: int = 0,
        cgroups: Sequence[str] = (),
        ignore_paused: bool = False,
        stdio: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.pid_file = pid_file
        self.console_socket = console_socket
        self.preserve_fds = preserve_fds
        #: Cgroups below the container's, as --cgroup has them: `[CONTROLLERS:]PATH`.
        self.cgroups = cgroups
        self.ignore_paused = ignore_paused
        #: The descriptors that become the process's 0, 1 and 2.
        self.stdio = stdio


def exec_process(container: Container, process: dict[str, Any], options: ExecOptions) -> int:
    """Start a process in a container and return its pid; it is a child of this process.

    FailedPrecondition for a container that does not run, InvalidArgument for the document, Unknown in runc's words.
    """
    with Execution(container, process, options) as execution:
        execution.begin()
        while not execution.advance():
            continue
        return execution.finish()


class Execution(Work):
    """An exec under way, step by step: as `create.Creation`."""

    def __init__(self, container: Container, process: dict[str, Any], options: ExecOptions) -> None:
        super().__init__()
        self._container = container
        self._process = process
        self._options = options
        self._channel = Channel(-1)
        self._pid = 0
        self._pidfd = -1

    def fileno(self) -> int:
        return self._channel.fileno()

    def begin(self) -> None:
        """Make the process, which begins its part. FailedPrecondition, InvalidArgument, Unknown."""
        check_process(self._process)
        self._check_status()
        own = self._container.spec["process"]
        for name in ("capabilities", "oomScoreAdj"):
            if name not in self._process and name in own:
                self._process[name] = own[name]
        init = self._container.open_init()
        self._closing.callback(os.close, init)
        self._channel, theirs = channels()
        self._closing.callback(self._channel.close)
        self._closing.callback(theirs.close)
        plan = self._plan(theirs, init)
        self._launch(plan)
        theirs.close()
        set_process_limits(self._pid, self._process, rootless=self._container.state_record.rootless)
        self._send(messages.GO)
        if plan.entrance is None or not plan.entrance.is_usable:
            self._join_cgroup()

    def _join_cgroup(self) -> None:
        self._container.cgroup.join(self._pid, self._options.cgroups, beside=self._container.pid)
        self._send(messages.JOINED)

    def _send(self, kind: bytes) -> None:
        try:
            self._channel.send(kind)
        except ChannelClosed:
            if kind != messages.JOINED:  # then its last message, which is still to be read, says why
                raise died() from None

    def _check_status(self) -> None:
        status = self._container.status()
        if status == "stopped":
            raise _cannot("cannot exec in a stopped container")
        if status == "paused" and not self._options.ignore_paused:
            raise _cannot("cannot exec in a paused container (use --ignore-paused to override)")

    def _plan(self, theirs: Channel, init: int) -> ExecPlan:
        spec, options = self._container.spec, self._options
        linux = spec.get("linux") or {}
        process = ProcessPlan(self._process, theirs, options.stdio)
        process.preserve_fds = options.preserve_fds
        process.session_keyring = self._container.state_record.session_keyring
        affinity = self._process.get("execCPUAffinity") or {}
        cpus = [parse_cpu_list(affinity[name]) for name in ("initial", "final") if affinity.get(name)]
        process.affinity = cpus[-1] if cpus else set()
        if linux.get("seccomp"):
            cache = seccomp_cache(self._container.root)
            process.filter = compile_filter(linux["seccomp"], cache_directory=cache)
        if self._process.get("terminal"):
            if not options.console_socket:
                raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
            process.console = connect(options.console_socket)
            self._closing.callback(os.close, process.console)
        elif options.console_socket:
            raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")
        plan = ExecPlan(process, init, self._entered())
        if not options.cgroups:
            plan.entrance = self._container.cgroup.entrance()
        if plan.entrance is not None:
            self._closing.callback(plan.entrance.close)
        if plan.flags & CLONE_NEWUSER:
            plan.id_maps = IdMaps.of(linux.get("uidMappings"), linux.get("gidMappings"))
        process.may_set_groups = not (plan.flags & CLONE_NEWUSER and os.geteuid() != 0)
        if not plan.flags & CLONE_NEWNS:
            plan.root = os.open(f"/proc/{self._container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._closing.callback(os.close, plan.root)
        return plan

    def _entered(self) -> int:
        """Return the namespaces of init that are not this process's: by the files, whatever the specification says."""
        flags = 0
        for type, name in FILES.items():
            try:
                theirs = os.stat(f"/proc/{self._container.pid}/ns/{name}")
                ours = os.stat(f"/proc/self/ns/{name}")
            except FileNotFoundError:
                continue  # a kernel without this type, or an init that has just ended: entering it will say so
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                flags |= FLAGS[type]
        return flags

    def _launch(self, plan: ExecPlan) -> None:
        own = -1
        if plan.flags & CLONE_NEWPID:
            # A process enters a pid namespace only by its children.
            own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            _enter(plan.init, CLONE_NEWPID)
        try:
            self._pid, self._pidfd = plan.entrance.clone(0) if plan.entrance is not None else clone(0)
            if self._pid == 0:
                plan.run()
        finally:
            if own >= 0:
                setns(own, CLONE_NEWPID)
                os.close(own)
        self._closing.callback(os.close, self._pidfd)
        self._undo.callback(self._kill)

    def advance(self) -> bool:
        """Do what the process asks for next; True when it has become its program. Unknown with its reason."""
        try:
            kind, text = self._channel.receive()
        except ChannelClosed:
            # Its end was closed by a successful execve(2).
            return True
        except Unknown as error:
            raise Unknown(f"unable to start container process: {error.message}") from None
        if kind == messages.OUTSIDE:
            self._join_cgroup()
        elif kind == messages.LISTENER:
            from wherry.runc.seccomp_agent import send_listener

            seccomp = self._container.spec["linux"]["seccomp"]
            send_listener(self._pidfd, int(text), seccomp, hook_state(self._container.state_record, "running"))
            self._send(messages.GO)
        return False

    def finish(self) -> int:
        """Write the pid file and return the pid. Unknown."""
        if self._options.pid_file:
            try:
                write_pid_file(self._options.pid_file, self._pid)
            except OSError as error:
                raise Unknown(f"open {error.filename}: {(error.strerror or '').lower()}") from None
        self._undo.pop_all()
        return self._pid

    def _kill(self) -> None:
        try:
            signals.send(self._pidfd, signals.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return


class ExecPlan:
    """All that the process needs to know."""

    __slots__ = ("entrance", "flags", "id_maps", "init", "process", "root")

    def __init__(self, process: ProcessPlan, init: int, flags: int) -> None:
        self.process = process
        #: A pidfd of the container's init.
        self.init = init
        #: The namespaces that are entered.
        self.flags = flags
        self.id_maps: IdMaps | None = None
        #: How it gets into the container's cgroup by itself; None where the runtime moves it.
        self.entrance: Entrance | None = None
        #: The container's root, where it has no mount namespace of its own; else -1.
        self.root = -1

    def run(self) -> NoReturn:
        """Become a process of the container's."""
        channel = self.process.channel
        reason = ""
        try:
            self._run()
        except Unknown as error:
            reason = error.message
        except OSError as error:
            reason = (error.strerror or "").lower()
        except ChannelClosed:
            os._exit(1)
        except BaseException as error:  # nothing may escape into the code of whoever was copied
            reason = f"{type(error).__name__}: {error}"
        try:
            channel.send(messages.ERROR, reason)
        finally:
            os._exit(255)

    def _run(self) -> None:
        process = self.process
        set_dumpable(False)
        doors = self.entrance.tasks if self.entrance is not None else ()
        process.begin([self.init, self.root, *doors])
        process.channel.expect(messages.GO)
        process.enter_cgroup(self.entrance)
        proc = HostProc()
        self._enter_namespaces()
        os.setsid()
        process.take_keyring()
        if self.flags & CLONE_NEWUSER:
            maps = self.id_maps
            process.enter_user_namespace(
                has_user_zero=maps is None or maps.has_user(0), has_group_zero=maps is None or maps.has_group(0)
            )
        if process.console >= 0:
            self._take_terminal(proc)
        process.take_limits()
        program = process.become(proc)
        try:
            process.execute(program, keep_channel=True)
        except OSError as error:
            raise Unknown(f"exec {program}: {(error.strerror or '').lower()}") from None

    def _enter_namespaces(self) -> None:
        flags = self.flags & ~(CLONE_NEWPID | CLONE_NEWUSER)
        try:
            if flags:
                setns(self.init, flags)
        except PermissionError:
            # They belong to the user namespace, which has the right; the first try was for those that do not.
            setns(self.init, self.flags & ~CLONE_NEWPID)
            flags = 0
        else:
            if self.flags & CLONE_NEWUSER:
                setns(self.init, CLONE_NEWUSER)
        os.close(self.init)
        if self.root >= 0:
            os.fchdir(self.root)
            os.chroot(".")
            os.close(self.root)
        os.chdir("/")

    def _take_terminal(self, proc: HostProc) -> None:
        process = self.process
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        master, slave = open_console(root, process.console_size, proc)
        os.close(root)
        send_master(process.console, master, "/dev/ptmx")
        os.close(master)
        os.close(process.console)
        process.take_terminal(slave)
        os.close(slave)


def _enter(init: int, flag: int) -> None:
    try:
        setns(init, flag)
    except OSError as error:
        raise Unknown(f"unable to enter the container's namespaces: {(error.strerror or '').lower()}") from None


def _cannot(text: str) -> FailedPrecondition:
    error = FailedPrecondition()
    error.message = text
    error.args = (text,)
    return error

"""`exec`: another process in a container. Not of the OCI runtime specification; runc's command line defines it."""

from __future__ import annotations

import os

from wherry.errors import FailedPrecondition, InvalidArgument, Unknown
from wherry.linux import signals
from wherry.linux.limits import RLIMITS, get_limit, set_limit
from wherry.linux.namespaces import CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, clone, clone_sibling, setns
from wherry.linux.process import set_dumpable
from wherry.linux.scheduler import parse_cpu_list
from wherry.runc import channel as messages
from wherry.runc.channel import Channel, ChannelClosed, channels
from wherry.runc.console import control, open_console, send_master
from wherry.runc.create import connect, died, send_pidfd, set_process_limits, write_pid_file
from wherry.runc.host_proc import HostProc
from wherry.runc.id_maps import IdMaps
from wherry.runc.namespaces import FILES, FLAGS, Namespaces, launch, may_return
from wherry.runc.process import ProcessPlan
from wherry.runc.seccomp import compile_filter
from wherry.runc.spec import check_process, namespace_paths
from wherry.runc.state import hook_state, seccomp_cache
from wherry.runc.undo import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.container import Container


#: A container's process with it, in any of its sets, may trace what it can name, dumpable or not: ptrace(2).
_TRACER = "CAP_SYS_PTRACE"
#: In the state directory: a process that may trace was exec'ed into a container that itself may not.
_TRACES = "traces"

_NPROC = RLIMITS["RLIMIT_NPROC"]

#: Seconds in which a runtime takes over the process that its stage has made.
_HAND_OVER = 60


class ExecOptions:
    """What the command line adds to a process document."""

    __slots__ = ("cgroups", "console_socket", "ignore_paused", "pid_file", "pidfd_socket", "preserve_fds", "stdio")

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
        #: A unix socket that a pidfd of the process is sent to.
        self.pidfd_socket = ""


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
        #: What the process was made by while that is a stage: it makes the container's own.
        self._stage: ProcessPlan | None = None
        self._has_stage = False

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
        if plan.process.is_stage:
            self._has_stage, self._stage = True, plan.process
            self._channel.ask_senders()
        document = plan.limits_of_stage(self._process) if self._has_stage else self._process
        self._launch(plan)
        theirs.close()
        set_process_limits(self._pid, document, rootless=self._container.state_record.rootless)
        # A stage's cgroups are none of the container's: their limits of processes are for that one's.
        if not self._has_stage and (plan.entrance is None or not plan.entrance.is_usable):
            self._join_cgroup()
        self._go()

    def _join_cgroup(self) -> None:
        self._container.cgroup.join(self._pid, self._options.cgroups, beside=self._container.pid)

    def _go(self) -> None:
        try:
            self._channel.send(messages.GO)
        except ChannelClosed:
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
        process.is_stage = self._may_be_traced(plan.flags)
        if not options.cgroups and not process.is_stage:
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

    def _may_be_traced(self, flags: int) -> bool:
        """Tell whether something in the container's pid namespace may trace a process that is exec'ed into it.

        In a user namespace of its own it may not, as long as the process is not dumpable.
        """
        if not flags & CLONE_NEWPID or flags & CLONE_NEWUSER:
            return False
        spec, mark = self._container.spec, os.path.join(self._container.directory, _TRACES)
        if _has_tracer(spec["process"]) or namespace_paths(spec).get("pid"):
            return True  # who else is in a joined namespace, nobody knows
        if _has_tracer(self._process):
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            return True
        return os.path.exists(mark)

    def _entered(self) -> int:
        """Return the namespaces of init that are not this process's: by the files, whatever the specification says."""
        flags = 0
        for type, name in FILES.items():
            try:
                theirs = os.stat(f"/proc/{self._container.pid}/ns/{name}")
                ours = os.stat(f"/proc/self/ns/{name}")
            except FileNotFoundError:
                continue  # a kernel without this type, or an init that has just ended: entering it will say so
            except PermissionError:
                # Nobody looks into a process of ours before it has become its program, but with privileges.
                raise _cannot("cannot exec in a created container without privileges: start it first") from None
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
                flags |= FLAGS[type]
        return flags

    def _launch(self, plan: ExecPlan) -> None:
        if plan.process.is_stage or may_return(plan.flags & CLONE_NEWPID):
            self._launch_here(plan)
        else:
            self._launch_by_stage(plan)
        self._closing.callback(os.close, self._pidfd)
        self._undo.callback(self._kill)

    def _launch_by_stage(self, plan: ExecPlan) -> None:
        """Have a child enter the pid namespace, and before that the user namespace if that has the right to it."""
        plan.entered = CLONE_NEWPID if os.geteuid() == 0 else plan.flags & (CLONE_NEWPID | CLONE_NEWUSER)
        directory = f"/proc/{self._container.state_record.pid}/ns"
        paths = {type: f"{directory}/{name}" for type, name in FILES.items() if FLAGS[type] & plan.entered}
        spaces = Namespaces(paths, {})
        try:
            signals.send(plan.init, 0)  # it is alive: they are its own, and no other process's of this pid
            self._pid, self._pidfd = launch(
                spaces, plan.run, self._channel, plan.process.channel, entrance=plan.entrance
            )
        except ProcessLookupError:
            raise _cannot("cannot exec in a stopped container") from None
        finally:
            spaces.close()

    def _launch_here(self, plan: ExecPlan) -> None:
        own = -1
        # A stage enters all by itself: the pid namespace is then the one of its child.
        plan.entered = 0 if plan.process.is_stage else plan.flags & CLONE_NEWPID
        if plan.flags & CLONE_NEWPID and not plan.process.is_stage:
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

    def advance(self) -> bool:
        """Do what the process asks for next; True when it has become its program. Unknown with its reason."""
        try:
            kind, text = self._receive()
        except ChannelClosed:
            if self._stage is not None:
                raise died() from None
            # Its end was closed by a successful execve(2).
            return True
        except Unknown as error:
            raise Unknown(f"unable to start container process: {error.message}") from None
        if kind == messages.PID:
            self._take_over(int(text))
        elif kind == messages.OUTSIDE:
            self._join_cgroup()
            self._go()
        elif kind == messages.LISTENER:
            from wherry.runc.seccomp_agent import send_listener

            seccomp = self._container.spec["linux"]["seccomp"]
            send_listener(self._pidfd, int(text), seccomp, hook_state(self._container.state_record, "running"))
            self._go()
        return False

    def _receive(self) -> tuple[bytes, str]:
        if not self._has_stage:
            return self._channel.receive()
        kind, text, sender = self._channel.receive_from()
        if self._stage is None or sender != self._pid:
            # A tracer has the channel of the process that is traced, but can send nothing in the name of the stage.
            raise Unknown("somebody in the container has taken hold of the process")
        return kind, text

    def _take_over(self, pid: int) -> None:
        """Have the container's process, which waits, in the place of the stage that made it. Unknown."""
        stage, plan = self._pid, self._stage
        assert plan is not None
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            raise died() from None
        self._closing.callback(os.close, self._pidfd)
        self._pid, self._stage = pid, None
        try:
            os.waitpid(stage, 0)
        except ChildProcessError:
            pass  # collected by whoever collects all children of this process
        self._join_cgroup()
        try:
            if plan.loses_scheduler:
                plan.set_scheduler(pid)
        except OSError as error:
            raise Unknown(f"unable to start container process: scheduler: {(error.strerror or '').lower()}") from None
        self._go()

    def finish(self) -> int:
        """Write the pid file and return the pid. Unknown."""
        if self._options.pidfd_socket:
            send_pidfd(self._options.pidfd_socket, self._pidfd, "setns")
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

    __slots__ = ("entered", "entrance", "flags", "id_maps", "init", "process", "process_limit", "root")

    def __init__(self, process: ProcessPlan, init: int, flags: int) -> None:
        self.process = process
        #: A pidfd of the container's init.
        self.init = init
        #: The namespaces that are entered.
        self.flags = flags
        #: Those of them that the process is made in.
        self.entered = 0
        self.id_maps: IdMaps | None = None
        #: How it gets into the container's cgroup by itself; None where the runtime moves it.
        self.entrance: Entrance | None = None
        #: The soft and the hard limit of processes, which is for the one that a stage makes.
        self.process_limit: tuple[int, int] | None = None
        #: The container's root, where it has no mount namespace of its own; else -1.
        self.root = -1

    def limits_of_stage(self, process: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a document with the limits of a stage: not the one of processes, which must allow for it as well."""
        limits = []
        for limit in process.get("rlimits") or ():
            soft, hard = limit.get("soft"), limit.get("hard")
            if limit.get("type") != "RLIMIT_NPROC" or soft is None or hard is None:
                limits.append(limit)
                continue
            self.process_limit = soft, hard
            if hard > get_limit(_NPROC)[1]:
                limits.append({**limit, "soft": hard})  # which the process itself could not do any more
        return {**process, "rlimits": limits}

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
        if not process.is_stage:
            process.enter_cgroup(self.entrance)
        proc = HostProc()
        self._enter_namespaces()
        if not process.is_stage:
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
        process.make_ready()
        if process.is_stage:
            self._make_process()
        try:
            process.execute(program)
        except OSError as error:
            raise Unknown(f"exec {program}: {(error.strerror or '').lower()}") from None

    def _make_process(self) -> None:
        """Make the container's process, which alone returns from this. OSError, Unknown, ChannelClosed.

        It is a copy of this one, which nobody in the container can see: with the ids, capabilities, labels and filter
        of its document, nothing of the host's within reach, and no descriptor but its own and the channel's.
        """
        channel = self.process.channel
        # If this process is killed now, nobody knows of the other.
        channel.limit_wait(_HAND_OVER)
        try:
            pid = clone_sibling()
        except OSError as error:
            raise Unknown(f"unable to make the process: {(error.strerror or '').lower()}") from None
        if pid:
            channel.send(messages.PID, str(pid))
            os._exit(0)
        channel.expect(messages.GO)
        if self.process_limit is not None:
            try:
                set_limit(0, _NPROC, *self.process_limit)
            except OSError as error:
                reason = f"error setting rlimit type {_NPROC}: {(error.strerror or '').lower()}"
                raise Unknown(
                    f"error during container init: error setting rlimits for ready process: {reason}"
                ) from None
        # A session and its terminal are for whoever leads it.
        os.setsid()
        if self.process.console >= 0:
            control(0)

    def _enter_namespaces(self) -> None:
        remaining = self.flags & ~self.entered
        flags = remaining & ~CLONE_NEWUSER
        try:
            if flags:
                setns(self.init, flags)
        except PermissionError:
            # They belong to the user namespace, which has the right; the first try was for those that do not.
            setns(self.init, remaining)
        else:
            if remaining & CLONE_NEWUSER:
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


def _has_tracer(process: Mapping[str, Any]) -> bool:
    sets = process.get("capabilities") or {}
    return any(_TRACER in (names or ()) for names in sets.values())


def _cannot(text: str) -> FailedPrecondition:
    error = FailedPrecondition()
    error.message = text
    error.args = (text,)
    return error

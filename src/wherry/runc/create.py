"""`create`: from a bundle to a process that waits for its start. OCI runtime specification, runtime.md, "Create"."""

from __future__ import annotations

import os

from wherry.errors import AlreadyExists, Error, InvalidArgument, Unknown
from wherry.linux import signals
from wherry.linux.descriptors import close_range
from wherry.linux.limits import RLIMITS, set_limit
from wherry.linux.mount import MS_PRIVATE
from wherry.linux.namespaces import CLONE_NEWCGROUP, CLONE_NEWNS, CLONE_NEWUSER
from wherry.linux.process import adjust_oom_score, start_time
from wherry.oci import json_text
from wherry.runc import cgroup_mounts
from wherry.runc import channel as messages
from wherry.runc.cgroups.cgroup import new_cgroup
from wherry.runc.channel import Channel, ChannelClosed, channels
from wherry.runc.console import connect_console, send_master
from wherry.runc.container import Container
from wherry.runc.devices import wanted_devices
from wherry.runc.gate import make_gate
from wherry.runc.hooks import run_hooks
from wherry.runc.id_maps import IdMaps
from wherry.runc.init import InitPlan
from wherry.runc.mounts import open_source, prepare_mount
from wherry.runc.namespaces import Namespaces, launch
from wherry.runc.process import ProcessPlan
from wherry.runc.seccomp import compile_filter
from wherry.runc.spec import check_id, namespace_paths
from wherry.runc.state import State, hook_state, make_directory, remove_directory, seccomp_cache
from wherry.runc.undo import Work

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from wherry.runc.spec import Spec


class CreateOptions:
    """What the command line adds to a bundle."""

    __slots__ = (
        "bundle",
        "console_socket",
        "environment",
        "folder",
        "mounts",
        "no_new_keyring",
        "no_pivot",
        "pid_file",
        "pidfd_socket",
        "preserve_fds",
        "rootless",
        "stdio",
        "systemd_cgroup",
    )

    def __init__(
        self,
        bundle: str,
        *,
        pid_file: str = "",
        console_socket: str = "",
        preserve_fds: int = 0,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        systemd_cgroup: bool = False,
        rootless: bool = False,
        stdio: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.bundle = os.path.abspath(bundle)
        self.pid_file = pid_file
        self.console_socket = console_socket
        self.preserve_fds = preserve_fds
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.systemd_cgroup = systemd_cgroup
        self.rootless = rootless
        #: The descriptors that become the process's 0, 1 and 2.
        self.stdio = stdio
        #: A unix socket that a pidfd of the process is sent to.
        self.pidfd_socket = ""
        #: What the first process has besides what the specification says, and others of the container have not.
        self.environment: list[str] = []
        self.mounts: list[dict[str, Any]] = []
        #: A folder made in the state directory, for a mount.
        self.folder = ""


def create(root: str, id: str, spec: Spec, options: CreateOptions, *, sibling: bool = False) -> Container:
    """Create a container, with its process waiting to be started as a child of this process, or of its parent.

    `root` holds the state of all containers; `spec` has been checked. A failure leaves nothing. AlreadyExists,
    InvalidArgument, Unknown in runc's words.
    """
    with Creation(root, id, spec, options, sibling=sibling) as creation:
        creation.begin()
        while not creation.advance():
            continue
        return creation.finish()


class Creation(Work):
    """A container being created, step by step, for whoever has other things to do meanwhile.

    `begin`, then `advance` whenever `fileno` is readable, until it returns True; `finish` makes it last. Leaving the
    context before that removes all of it.
    """

    def __init__(self, root: str, id: str, spec: Spec, options: CreateOptions, *, sibling: bool = False) -> None:
        """With `sibling` the process becomes a child of this process's parent."""
        super().__init__()
        self._root = root
        self._sibling = sibling
        self._id = id
        self._spec = spec
        self._options = options
        self._channel = Channel(-1)
        self._state = State(id, options.bundle, spec)
        self._pidfd = -1

    def fileno(self) -> int:
        return self._channel.fileno()

    # -- what comes before there is a process -----------------------------------------------------------------------

    def begin(self) -> None:
        """Make everything up to the process, which begins its part. InvalidArgument, AlreadyExists, Unknown."""
        keep_from_hooks(self._options.preserve_fds)
        check_id(self._id)
        self._make_directory()
        self._make_cgroup()
        plan = self._plan()
        self._launch(plan)

    def _make_directory(self) -> None:
        try:
            self._directory = make_directory(self._root, self._id)
        except FileExistsError:
            raise already_exists() from None
        self._undo.callback(unmake_directory, self._directory)
        if self._options.folder:
            folder = os.path.join(self._directory, self._options.folder)
            os.mkdir(folder)
            os.chmod(folder, 0o755)  # noqa: S103  # for any user of the container's
        self._state_fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._closing.callback(os.close, self._state_fd)

    def _make_cgroup(self) -> None:
        linux = self._spec.get("linux") or {}
        options = self._options
        cgroup = new_cgroup(
            linux.get("cgroupsPath") or "",
            self._id,
            systemd=options.systemd_cgroup,
            rootless=options.rootless,
            annotations=self._spec.get("annotations"),
        )
        self._cgroup = cgroup
        self._state.cgroup = dict(cgroup.paths)
        self._state.systemd_unit = cgroup.systemd_unit
        self._state.rootless = options.rootless
        # Before there is anything: whatever becomes of this process, `delete` finds what it made.
        self._state.write(self._directory)
        self._undo.callback(cgroup.delete)
        cgroup.create(linux.get("resources") or {})

    def _plan(self) -> InitPlan:
        spec, options = self._spec, self._options
        linux = spec.get("linux") or {}
        if not spec.get("process"):
            raise InvalidArgument("process property must not be empty")
        self._channel, theirs = channels()
        self._closing.callback(self._channel.close)
        self._closing.callback(theirs.close)
        self._theirs = theirs
        spaces = Namespaces(namespace_paths(spec), linux.get("timeOffsets") or {})
        self._closing.callback(spaces.close)
        variables = [*(spec["process"].get("env") or ()), *options.environment]
        process = ProcessPlan({**spec["process"], "env": variables}, theirs, options.stdio)
        process.preserve_fds = options.preserve_fds
        if linux.get("seccomp"):
            process.filter = compile_filter(linux["seccomp"], cache_directory=seccomp_cache(self._root))
        process.personality = linux.get("personality")
        if not options.no_new_keyring:
            self._state.session_keyring = process.session_keyring = f"_ses.{self._id}"
        plan = InitPlan(spec, process, spaces)
        self._plan_root(plan, linux)
        if spec["process"].get("terminal"):
            if not options.console_socket:
                raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
            process.console = connect(options.console_socket)
            self._closing.callback(os.close, process.console)
        elif options.console_socket:
            raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")
        plan.entrance = self._cgroup.entrance()
        if plan.entrance is not None:
            self._closing.callback(plan.entrance.close)
        plan.state = hook_state(self._state, "creating")
        plan.gate = make_gate(self._state_fd)
        self._closing.callback(os.close, plan.gate)
        return plan

    def _plan_root(self, plan: InitPlan, linux: Mapping[str, Any]) -> None:
        spec, bundle, spaces = self._spec, self._options.bundle, plan.namespaces
        plan.root = _root_path(bundle, spec["root"].get("path") or "")
        plan.pivot = not self._options.no_pivot
        if plan.propagation & MS_PRIVATE and (self._options.no_pivot or not spaces.has & CLONE_NEWNS):
            raise InvalidArgument("rootfsPropagation of [r]private is not safe without pivot_root")
        if spaces.new & CLONE_NEWUSER:
            plan.id_maps = IdMaps.of(linux.get("uidMappings"), linux.get("gidMappings"))
        plan.process.may_set_groups = not (spaces.has & CLONE_NEWUSER and os.geteuid() != 0)
        own_cgroups = {} if spaces.has & CLONE_NEWCGROUP else self._cgroup_paths_seen()
        # In a joined mount namespace paths lead elsewhere; and without privileges the container's process has them,
        # by its user namespace, and this one has not.
        may_open = CLONE_NEWNS not in spaces.joined and os.geteuid() == 0
        binds_dev = False
        for entry in (*(spec.get("mounts") or ()), *self._options.mounts):
            prepared = prepare_mount(entry, bundle, plan.label, own_cgroups)
            if prepared.type == "bind":
                binds_dev = binds_dev or prepared.destination == "/dev"
                if may_open:
                    try:
                        open_source(prepared, entry, plan.id_maps, plan.propagation)
                    except Unknown as error:
                        raise Unknown(explained(error.message)) from None
                if prepared.tree >= 0:
                    self._closing.callback(os.close, prepared.tree)
                elif prepared.options.idmap or entry.get("uidMappings"):
                    raise InvalidArgument(f"mount {prepared.destination}: an idmapped mount takes privileges")
            plan.mounts.append(prepared)
        if not binds_dev and spaces.has & CLONE_NEWNS:
            plan.devices = wanted_devices(linux.get("devices") or ())

    def _cgroup_paths_seen(self) -> dict[str, str]:
        """Return where the container will be in each hierarchy, as /proc/self/cgroup would have it."""
        seen = cgroup_mounts.own_cgroups()
        for controllers in seen:
            for name in controllers.split(","):
                path = self._cgroup.paths.get(name) or self._cgroup.paths.get(f"name={name}")
                if path:
                    seen[controllers] = cgroup_mounts.below_root(path)
        return seen

    # -- the process -------------------------------------------------------------------------------------------------

    def _launch(self, plan: InitPlan) -> None:
        entrance = plan.entrance
        pid, self._pidfd = launch(
            plan.namespaces, plan.run, self._channel, self._theirs, entrance=entrance, sibling=self._sibling
        )
        self._closing.callback(os.close, self._pidfd)
        self._undo.callback(self._run_poststop_hooks)
        self._undo.callback(self._kill, pid)
        self._state.pid = pid
        self._theirs.close()
        if plan.id_maps is not None:
            plan.id_maps.write(pid)
        set_process_limits(pid, self._spec["process"], rootless=self._options.rootless)
        self._send(messages.GO)
        # Meanwhile the process mounts its root file system.
        if entrance is None or not entrance.is_usable:
            self._cgroup.join(pid)
        try:
            self._cgroup.set((self._spec.get("linux") or {}).get("resources") or {})
        except Error as error:
            raise Unknown(explained(error.message)) from None
        self._send(messages.JOINED)

    def _send(self, kind: bytes) -> None:
        try:
            self._channel.send(kind)
        except ChannelClosed:
            if kind != messages.JOINED:  # then its last message, which is still to be read, says why
                raise self._died() from None

    def advance(self) -> bool:
        """Do what the process asks for next; True when it waits to be started. Unknown with its reason."""
        try:
            kind, text = self._channel.receive()
        except ChannelClosed:
            raise self._died() from None
        except Unknown as error:
            raise Unknown(explained(error.message)) from None
        if kind == messages.HOOKS:
            try:
                self._run_hooks()
            except Unknown as error:
                raise Unknown(explained(error.message)) from None
            self._send(messages.GO)
        elif kind == messages.OUTSIDE:
            self._cgroup.join(self._state.pid)
            self._send(messages.GO)
        elif kind == messages.LISTENER:
            self._hand_over_listener(int(text))
            self._send(messages.GO)
        elif kind == messages.READY:
            return True
        else:
            raise Unknown(f"the container's process said {kind!r}")
        return False

    def _died(self) -> Unknown:
        if self._cgroup.oom_kills():
            return Unknown("unable to start container process: container init was OOM-killed (memory limit too low?)")
        return died()

    def _run_hooks(self) -> None:
        hooks = self._spec.get("hooks") or {}
        document = json_text.dumps(hook_state(self._state, "creating")).encode()
        run_hooks(hooks.get("prestart") or (), document, self._options.bundle)
        run_hooks(hooks.get("createRuntime") or (), document, self._options.bundle)

    def _hand_over_listener(self, number: int) -> None:
        from wherry.runc.seccomp_agent import send_listener

        seccomp = self._spec["linux"]["seccomp"]
        send_listener(self._pidfd, number, seccomp, hook_state(self._state, "creating"))

    def finish(self) -> Container:
        """Record the container and return it. Unknown."""
        state = self._state
        if self._options.pidfd_socket:
            send_pidfd(self._options.pidfd_socket, self._pidfd, "standard")
        state.cgroup = dict(self._cgroup.paths)  # without those that an unprivileged user could not make
        state.start_time = start_time(state.pid)
        state.created = now()
        try:
            state.write(self._directory)
            if self._options.pid_file:
                write_pid_file(self._options.pid_file, state.pid)
        except OSError as error:
            raise Unknown(f"open {error.filename}: {(error.strerror or '').lower()}") from None
        self._undo.pop_all()
        return Container(self._root, state, self._cgroup)

    def _run_poststop_hooks(self) -> None:
        """Have undone what other hooks may have done."""
        hooks = (self._spec.get("hooks") or {}).get("poststop") or ()
        document = json_text.dumps(hook_state(self._state, "stopped")).encode()
        try:
            run_hooks(hooks, document, self._options.bundle)
        except Unknown:
            return  # what was wrong before this is to be told

    def _kill(self, pid: int) -> None:
        try:
            signals.send(self._pidfd, signals.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return  # its parent has collected it, or is another process


def keep_from_hooks(preserve_fds: int) -> None:
    """See to it that no descriptor of ours is a hook's, those for a container's process among them.

    Unknown for one of the latter that is not open.
    """
    close_range(3, on_exec=True)
    for fd in range(3, 3 + preserve_fds):
        try:
            os.fstat(fd)
        except OSError:
            raise Unknown(f"unable to stat preserved-fd {fd - 3} (of {preserve_fds}): bad file descriptor") from None


def set_process_limits(pid: int, process: Mapping[str, Any], *, rootless: bool) -> None:
    """Give a process the limits and the OOM score of its document. InvalidArgument, Unknown, naming the field."""
    for limit in process.get("rlimits") or ():
        try:
            set_limit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except KeyError:
            raise Unknown(f"wrong rlimit value: {limit.get('type')}") from None
        except OSError as error:
            reason = (error.strerror or "").lower()
            failed = f"error setting rlimit type {RLIMITS[limit['type']]}: {reason}"
            raise Unknown(explained(f"error setting rlimits for ready process: {failed}")) from None
    score = process.get("oomScoreAdj")
    if score is not None:
        if not -1000 <= score <= 1000:
            raise InvalidArgument(f"oomScoreAdj {score}: it is from -1000 to 1000")
        try:
            adjust_oom_score(pid, score)
        except PermissionError as error:
            if not rootless:
                raise Unknown(f"write /proc/{pid}/oom_score_adj: {(error.strerror or '').lower()}") from None


def already_exists() -> Error:
    """Return runc's error, word for word: clients look for it."""
    error = AlreadyExists()
    error.message = "container with given ID already exists"
    error.args = (error.message,)
    return error


def died() -> Unknown:
    """Return the error for a process that is gone and said nothing."""
    return Unknown("the container's process was killed while it was set up")


#: How reasons begin that a process gives when it has its root: who it is to be, where, and what it runs.
_COMES_LAST = (
    "exec: ",
    "unable to apply bounding set",
    "unable to apply caps",
    "unable to become user ",
    "additionalGids: ",
    "chdir to cwd ",
)


def explained(reason: str) -> str:
    """Return a process's reason as clients know it from runc, which does not say when for what comes last."""
    during = "" if reason.startswith(_COMES_LAST) else "error during container init: "
    return f"unable to start container process: {during}{reason}"


def _root_path(bundle: str, path: str) -> str:
    root = os.path.realpath(os.path.join(bundle, path))
    if not os.path.isdir(root):
        raise Unknown(f"invalid rootfs: stat {root}: no such file or directory")
    return root


def connect(path: str) -> int:
    """Connect to a console socket. Unknown, naming it."""
    try:
        return connect_console(path)
    except OSError as error:
        raise Unknown(f"console socket {path}: {(error.strerror or str(error)).lower()}") from None


def send_pidfd(path: str, pidfd: int, kind: str) -> None:
    """Hand a process's pidfd to who listens at a unix socket, SCM_RIGHTS, with runc's word for its kind. Unknown."""
    connection = -1
    try:
        connection = connect_console(path)
        send_master(connection, pidfd, kind)
    except OSError as error:
        raise Unknown(f"pidfd socket {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        if connection >= 0:
            os.close(connection)


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid where others look for it: whole or not at all. OSError.

    It needs no syncing, which runc does: a machine that went down has no such process any more.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)


def now() -> str:
    """Return the time as a state document has it, RFC 3339."""
    import time

    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}".rstrip("0").rstrip(".") + "Z"
    )


def unmake_directory(directory: str) -> None:
    """Remove what a failed create had made."""
    try:
        remove_directory(directory)
    except OSError:
        return  # what was wrong before this is to be told

"""Checkpoint and restore of containers with CRIU. Not of the OCI runtime specification; runc's images are the model."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack

from wherry.errors import InvalidArgument, Unknown
from wherry.linux import mount as m
from wherry.linux.process import start_time
from wherry.runc.container import Container
from wherry.runc.create import already_exists, now, unmake_directory, write_pid_file
from wherry.runc.criu import DUMP, FIRST_INHERITED, PRE_DUMP, RESTORE, Criu
from wherry.runc.hooks import run_hooks
from wherry.runc.spec import check_id
from wherry.runc.state import State, hook_state, make_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from wherry.runc.cgroups.cgroup import Cgroup
    from wherry.runc.create import CreateOptions
    from wherry.runc.criu import Value
    from wherry.runc.spec import Spec

# message criu_opts
_IMAGES, _PID, _LEAVE_RUNNING, _UNIX_SOCKETS, _TCP, _EVASIVE_DEVICES, _SHELL_JOB, _FILE_LOCKS = range(1, 9)
_LOG_LEVEL, _LOG_FILE, _PAGE_SERVER, _NOTIFY_SCRIPTS, _ROOT, _PARENT, _TRACK_MEMORY, _AUTO_DEDUP, _WORK = range(9, 18)
_EXTERNAL_MOUNT, _MANAGE_CGROUPS, _CGROUP_ROOT, _SIBLING, _INHERIT = 23, 24, 25, 26, 27
_CGROUPS_MODE, _EXTERNAL, _EMPTY_NAMESPACES, _FREEZE_CGROUP = 34, 37, 38, 44
_LAZY_PAGES, _STATUS_FD, _ORPHAN_TERMINAL, _LSM_PROFILE, _LSM_MOUNT_CONTEXT = 48, 49, 50, 53, 63

#: enum criu_cg_mode, by runc's names.
CGROUPS_MODES = {"ignore": 0, "none": 1, "props": 2, "soft": 3, "full": 4, "strict": 5}
#: Namespaces that can be restored empty: <sched.h>'s flags, as criu takes them.
EMPTY_NAMESPACES = {"network": 0x40000000}

#: All that criu can tell.
_DEBUG = 4

#: Beside criu's images, as runc writes it: what the standard streams were.
_STREAMS = "descriptors.json"

#: The mark of a namespace that is joined, not made; by the name of its file.
_JOINED = {"network": ("net", "extRootNetNS"), "pid": ("pid", "extRootPidNS")}


class CriuOptions:
    """What the flags of checkpoint and restore say."""

    def __init__(self, images: str, work: str = "", *, criu: str = "criu") -> None:
        #: The directory of the images, and that of logs; "" for the container's own.
        self.images = images
        self.work = work
        #: The program.
        self.criu = criu
        #: The images of a pre-dump, relative to `images`.
        self.parent = ""
        self.leave_running = False
        self.pre_dump = False
        self.tcp_established = False
        self.external_unix_sockets = False
        self.shell_job = False
        self.file_locks = False
        self.auto_dedup = False
        self.lazy_pages = False
        #: A descriptor that criu writes a zero byte to when lazy pages can be had; -1 for none.
        self.status_fd = -1
        #: Address and port of a page server, ("", 0) without one.
        self.page_server: tuple[str, int] = ("", 0)
        self.cgroups_mode = ""
        self.empty_namespaces: list[str] = []
        self.lsm_profile = ""
        self.lsm_mount_context = ""

    def fields(self) -> dict[int, Value]:
        """Return what both directions have in common, as fields of criu_opts. InvalidArgument."""
        if self.cgroups_mode and self.cgroups_mode not in CGROUPS_MODES:
            raise InvalidArgument("Invalid manage cgroups mode")
        flags = 0
        for name in self.empty_namespaces:
            if name not in EMPTY_NAMESPACES:
                raise InvalidArgument(f"namespace {name} is not supported")
            flags |= EMPTY_NAMESPACES[name]
        fields: dict[int, Value] = {
            _LOG_LEVEL: _DEBUG,
            _NOTIFY_SCRIPTS: True,
            _MANAGE_CGROUPS: True,
            _ORPHAN_TERMINAL: True,
            _SHELL_JOB: self.shell_job,
            _UNIX_SOCKETS: self.external_unix_sockets,
            _TCP: self.tcp_established,
            _FILE_LOCKS: self.file_locks,
            _AUTO_DEDUP: self.auto_dedup,
            _LAZY_PAGES: self.lazy_pages,
            _EMPTY_NAMESPACES: flags,
        }
        if self.cgroups_mode:
            fields[_CGROUPS_MODE] = CGROUPS_MODES[self.cgroups_mode]
        return fields


def checkpoint(container: Container, options: CriuOptions) -> None:
    """Write a container's processes to images. What becomes of them then is `leave_running`'s; the container stays.

    Unknown, naming criu's log; InvalidArgument.
    """
    status = container.status()
    if status in ("created", "stopped"):
        raise Unknown(f"Container cannot be checkpointed in {status} state")
    _check_parent(options)
    with ExitStack() as closing:
        fields = options.fields()
        _open_directories(fields, options, container.directory, closing)
        log = _log(fields, options.work or container.directory, "dump.log")
        fields |= {_PID: container.pid, _ROOT: container.rootfs, _LEAVE_RUNNING: options.leave_running}
        freezer = container.cgroup.paths.get("freezer") or container.cgroup.paths.get("")
        if freezer:
            fields[_FREEZE_CGROUP] = freezer
        address, port = options.page_server
        if address:
            fields[_PAGE_SERVER] = {1: address, 2: port}
        if options.parent:
            fields[_PARENT] = options.parent
        if options.parent or options.pre_dump:
            fields[_TRACK_MEMORY] = True
        if options.status_fd >= 0:
            fields[_STATUS_FD] = options.status_fd
        if not options.pre_dump:
            fields[_EXTERNAL_MOUNT] = [{1: key, 2: value} for key, value in _dumped_mounts(container)]
            fields[_EXTERNAL] = list(_joined_namespaces(container))
            _write_streams(container.pid, options.images)
        criu = closing.enter_context(Criu(options.criu))
        criu.request(PRE_DUMP if options.pre_dump else DUMP, fields, log, lambda _script, _pid, _fd: None)


def _check_parent(options: CriuOptions) -> None:
    if not options.parent:
        return
    if os.path.isabs(options.parent):
        raise InvalidArgument("--parent-path must be relative to --image-path")
    if not os.path.isdir(os.path.join(options.images, options.parent)):
        raise InvalidArgument(f"--parent-path: no directory {os.path.join(options.images, options.parent)}")


def _open_directories(fields: dict[int, Value], options: CriuOptions, directory: str, closing: ExitStack) -> None:
    os.makedirs(options.images, mode=0o700, exist_ok=True)
    for field, path in ((_IMAGES, options.images), (_WORK, options.work or directory)):
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        closing.callback(os.close, fd)
        fields[field] = fd


def _log(fields: dict[int, Value], directory: str, name: str) -> str:
    fields[_LOG_FILE] = name
    return os.path.join(directory, name)


def _dumped_mounts(container: Container) -> Iterator[tuple[str, str]]:
    """Yield the mounts whose content is not the container's, each with the name that a restore finds it by."""
    root = f"/proc/{container.pid}/root"
    for path in _bound(container.spec):
        yield path, path
    for path in (container.spec.get("linux") or {}).get("maskedPaths") or ():
        if os.path.exists(root + path) and not os.path.isdir(root + path):
            yield path, "/dev/null"
    bound = set(_bound(container.spec))
    for path, type in _mount_points(container.pid):
        if path not in bound and type in ("cgroup", "cgroup2"):
            yield path, path


def _bound(spec: Spec) -> list[str]:
    """Return where the specification binds something."""
    return [entry["destination"] for entry in spec.get("mounts") or () if _is_bind(entry)]


def _is_bind(entry: Mapping[str, Any]) -> bool:
    return entry.get("type") == "bind" or any(option in ("bind", "rbind") for option in entry.get("options") or ())


def _mount_points(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the mount points that a process sees, with the types of their file systems. proc(5), mountinfo."""
    with open(f"/proc/{pid}/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            yield before.split()[4], after.split()[0]


def _joined_namespaces(container: Container) -> Iterator[str]:
    for entry in (container.spec.get("linux") or {}).get("namespaces") or ():
        if entry.get("path") and entry["type"] in _JOINED:
            file, mark = _JOINED[entry["type"]]
            yield f"{file}[{os.stat(entry['path']).st_ino}]:{mark}"


def _write_streams(pid: int, images: str) -> None:
    names = [os.readlink(f"/proc/{pid}/fd/{fd}") if os.path.lexists(f"/proc/{pid}/fd/{fd}") else "" for fd in range(3)]
    with open(os.path.join(images, _STREAMS), "w") as file:
        json.dump(names, file)


# -- restore ---------------------------------------------------------------------------------------------------------


def restore(root: str, id: str, spec: Spec, options: CreateOptions, criu_options: CriuOptions) -> Container:
    """Make a container whose processes are those of images; the first one is a child of this process, and runs.

    As `create`: AlreadyExists, InvalidArgument, Unknown; a failure leaves nothing.
    """
    check_id(id)
    with ExitStack() as undo, ExitStack() as closing:
        restoration = _Restoration(root, id, spec, options, criu_options)
        restoration.prepare(undo, closing)
        container = restoration.restore(undo, closing)
        undo.pop_all()
        return container


class _Restoration:
    """A restore under way."""

    def __init__(self, root: str, id: str, spec: Spec, options: CreateOptions, criu_options: CriuOptions) -> None:
        self._root = root
        self._spec = spec
        self._options = options
        self._criu_options = criu_options
        self._state = State(id, options.bundle, spec)
        self._directory = ""
        self._cgroup: Cgroup

    def prepare(self, undo: ExitStack, closing: ExitStack) -> None:
        """Make what criu expects to be there: the cgroup, and the root file system with its mount points."""
        from wherry.runc.cgroups.cgroup import new_cgroup

        try:
            self._directory = make_directory(self._root, self._state.id)
        except FileExistsError:
            raise already_exists() from None
        undo.callback(unmake_directory, self._directory)
        linux, options, state = self._spec.get("linux") or {}, self._options, self._state
        self._cgroup = new_cgroup(
            linux.get("cgroupsPath") or "", state.id, systemd=options.systemd_cgroup, rootless=options.rootless
        )
        state.cgroup = dict(self._cgroup.paths)
        state.systemd_unit = self._cgroup.systemd_unit
        state.rootless = options.rootless
        state.write(self._directory)
        undo.callback(self._cgroup.delete)
        self._cgroup.create(linux.get("resources") or {})
        self._mount_root(closing)

    def _mount_root(self, closing: ExitStack) -> None:
        """criu takes a mount point for a root."""
        rootfs = os.path.realpath(os.path.join(self._options.bundle, self._spec["root"]["path"]))
        if not os.path.isdir(rootfs):
            raise InvalidArgument(f"rootfs ({rootfs}) does not exist")
        self._criu_root = os.path.join(self._directory, "criu-root")
        os.mkdir(self._criu_root, 0o700)
        m.mount(rootfs, self._criu_root, "", m.MS_BIND | m.MS_REC)
        closing.callback(os.rmdir, self._criu_root)
        closing.callback(m.umount, self._criu_root, m.MNT_DETACH)
        self._make_mount_points()

    def _make_mount_points(self) -> None:
        from wherry.runc.root_path import make_directory, make_file

        root = os.open(self._criu_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        covered: list[str] = []
        try:
            for entry in self._spec.get("mounts") or ():
                path = os.path.normpath(entry["destination"])
                if not any(path == above or path.startswith(f"{above}/") for above in covered):
                    is_file = _is_bind(entry) and not os.path.isdir(entry["source"])
                    os.close(make_file(root, path) if is_file else make_directory(root, path))
                covered.append(path)  # what is below it is in its file system, which criu restores
        finally:
            os.close(root)

    def restore(self, undo: ExitStack, closing: ExitStack) -> Container:
        """Have criu do it, and record the container."""
        options, criu_options = self._options, self._criu_options
        fields = criu_options.fields()
        _open_directories(fields, criu_options, self._directory, closing)
        log = _log(fields, criu_options.work or self._directory, "restore.log")
        joined = list(self._open_joined(closing))
        # Its own descriptors come first, then those that it passes on.
        inherited = [*options.stdio, *(fd for _mark, fd in joined)]
        fields |= {
            _EVASIVE_DEVICES: True,
            _SIBLING: True,
            _ROOT: self._criu_root,
            _EXTERNAL_MOUNT: [{1: key, 2: value} for key, value in self._restored_mounts()],
            _INHERIT: [
                *({1: name, 2: FIRST_INHERITED + fd} for fd, name in enumerate(self._streams()) if "pipe:" in name),
                *({1: mark, 2: FIRST_INHERITED + 3 + index} for index, (mark, _fd) in enumerate(joined)),
            ],
        }
        if criu_options.lsm_profile:
            fields[_LSM_PROFILE] = criu_options.lsm_profile
        if criu_options.lsm_mount_context:
            fields[_LSM_MOUNT_CONTEXT] = criu_options.lsm_mount_context
        criu = closing.enter_context(Criu(criu_options.criu, inherited))
        self._cgroup.join(criu.pid)
        self._cgroup.set((self._spec.get("linux") or {}).get("resources") or {})
        fields[_CGROUP_ROOT] = list(_cgroup_roots(criu.pid))
        pid = criu.request(RESTORE, fields, log, self._notified)
        undo.callback(self._kill, pid)
        return self._record(pid)

    def _open_joined(self, closing: ExitStack) -> Iterator[tuple[str, int]]:
        for entry in (self._spec.get("linux") or {}).get("namespaces") or ():
            if entry.get("path") and entry["type"] in _JOINED:
                fd = os.open(entry["path"], os.O_RDONLY | os.O_CLOEXEC)
                closing.callback(os.close, fd)
                yield _JOINED[entry["type"]][1], fd

    def _streams(self) -> list[str]:
        path = os.path.join(self._criu_options.images, _STREAMS)
        with open(path, "rb") as file:
            names = json.load(file)
        if not isinstance(names, list) or len(names) > 3 or not all(isinstance(name, str) for name in names):
            raise InvalidArgument(f"{path}: not a list of three names")
        return names

    def _restored_mounts(self) -> Iterator[tuple[str, str]]:
        linux = self._spec.get("linux") or {}
        for entry in self._spec.get("mounts") or ():
            if _is_bind(entry):
                yield entry["destination"], os.path.join(self._options.bundle, entry["source"])
            elif entry.get("type") in ("cgroup", "cgroup2"):
                yield from self._restored_cgroups(entry["destination"])
        if linux.get("maskedPaths"):
            yield "/dev/null", "/dev/null"

    def _restored_cgroups(self, destination: str) -> Iterator[tuple[str, str]]:
        if self._cgroup.version == 2:
            yield destination, self._cgroup.paths[""]
            return
        seen = set()
        for path in self._cgroup.paths.values():
            # The hierarchy's name is that of the directory it is mounted on.
            for point, type in _mount_points(os.getpid()):
                if type == "cgroup" and path.startswith(f"{point}/") and point not in seen:
                    seen.add(point)
                    yield os.path.join(destination, os.path.basename(point)), path

    def _notified(self, script: str, pid: int, fd: int) -> None:
        if script == "setup-namespaces":
            self._state.pid = pid
            hooks = self._spec.get("hooks") or {}
            document = json.dumps(hook_state(self._state, "creating")).encode()
            run_hooks(hooks.get("prestart") or (), document, self._options.bundle)
            run_hooks(hooks.get("createRuntime") or (), document, self._options.bundle)
        elif script == "orphan-pts-master" and fd >= 0:
            from wherry.runc.console import connect_console, send_master

            if not self._options.console_socket:
                raise Unknown("cannot allocate tty if runc will detach without setting console socket")
            connection = connect_console(self._options.console_socket)
            try:
                send_master(connection, fd, "/dev/ptmx")
            finally:
                os.close(connection)

    def _record(self, pid: int) -> Container:
        state = self._state
        state.pid, state.start_time, state.created = pid, start_time(pid), now()
        state.write(self._directory)
        if self._options.pid_file:
            write_pid_file(self._options.pid_file, pid)
        return Container(self._root, state, self._cgroup)

    def _kill(self, pid: int) -> None:
        import signal

        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return


def _cgroup_roots(pid: int) -> Iterator[dict[int, Value]]:
    """Yield where a process is in each hierarchy, for criu to put the restored ones there. cgroups(7)."""
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file.read().splitlines():
            _id, controllers, path = line.split(":", 2)
            yield {1: controllers, 2: path} if controllers else {2: path}

"""The driver of wherry's own OCI runtime: in this process, without a program to be started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wherry.errors import Error, InvalidArgument, NotFound, Unknown
from wherry.linux.own_executable import is_protected
from wherry.runc import libseccomp as _libseccomp  # noqa: F401  # Nothing is imported after the start, since the
from wherry.runc import seccomp_agent as _seccomp_agent  # noqa: F401  # package may be another one by then: neither
from wherry.runc import seccomp_enosys as _seccomp_enosys  # noqa: F401  # by a profile that is in no cache, nor by
from wherry.runc import seccomp_profile as _seccomp_profile  # noqa: F401  # the first cgroup.
from wherry.runc.cgroups import entrance as _entrance  # noqa: F401
from wherry.runc.cgroups import v1 as _v1  # noqa: F401
from wherry.runc.cgroups import v2 as _v2  # noqa: F401
from wherry.runc.checkpoint import CriuOptions, checkpoint, restore
from wherry.runc.container import Container
from wherry.runc.create import CreateOptions, Creation, create
from wherry.runc.exec import ExecOptions, Execution
from wherry.runc.spec import load_spec, parse_object
from wherry.shim.options import CheckpointOptions
from wherry.shim.reaper import Reaper
from wherry.shim.runtime import Descriptors, Launch

if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
    from wherry.runc.cgroups import device_filter as _device_filter  # noqa: F401  # cgroup v2's

_NULL = "/dev/null"


class BuiltinRuntime:
    """wherry's own runtime. What may take long, hooks above all, is done in a copy of this process."""

    def __init__(self, reaper: Reaper, root: str, *, systemd_cgroup: bool = False, criu: str = "") -> None:
        self._reaper = reaper
        self._root = root
        self._systemd_cgroup = systemd_cgroup
        self._criu = criu or "criu"
        if systemd_cgroup:
            _import_systemd_driver()
        #: What was loaded last; another process may have changed its document since.
        self._loaded: Container | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def create(self, id: str, bundle: str, launch: Launch, *, no_pivot: bool, no_new_keyring: bool) -> None:
        _require_protection()
        with _failing("OCI runtime create failed: runc create failed"), _stdio(launch.descriptors) as stdio:
            spec = load_spec(bundle)
            options = self._options(bundle, launch, stdio, no_pivot=no_pivot)
            options.no_new_keyring = no_new_keyring
            if spec.get("hooks"):
                await self._in_copy(lambda: create(self._root, id, spec, options, sibling=True))
                return
            with Creation(self._root, id, spec, options) as creation:
                creation.begin()
                await self._until_ready(creation)
                self._loaded = creation.finish()

    async def restore(self, id: str, bundle: str, launch: Launch, image: str, work: str, *, no_pivot: bool) -> None:
        _require_protection()
        with _failing("OCI runtime restore failed: criu failed"), _stdio(launch.descriptors) as stdio:
            spec = load_spec(bundle)
            options = self._options(bundle, launch, stdio, no_pivot=no_pivot)
            criu = CriuOptions(image, work, criu=self._criu)
            # The copy's end makes the restored process a child of this one.
            await self._in_copy(lambda: restore(self._root, id, spec, options, criu))

    async def start(self, id: str) -> None:
        with _failing("OCI runtime start failed"):
            container = self._load(id)
            if (container.spec.get("hooks") or {}).get("poststart"):
                await self._in_copy(container.start)
            else:
                container.start()

    async def exec(self, id: str, document: bytes, launch: Launch) -> None:
        with _failing("OCI runtime exec failed: exec failed"), _stdio(launch.descriptors) as stdio:
            process = parse_object(document, "process of the exec")
            options = ExecOptions(pid_file=launch.pid_file, console_socket=launch.console_socket, stdio=stdio)
            with Execution(self._load(id), process, options) as execution:
                execution.begin()
                await self._until_ready(execution)
                execution.finish()

    async def delete(self, id: str, *, force: bool = False) -> None:
        try:
            container = self._load(id)
        except NotFound:
            return
        with _failing("failed to delete task"):
            has_hooks = (container.spec.get("hooks") or {}).get("poststop")
            if force or has_hooks or container.status() != "stopped":
                # It waits for processes to end: for those of this shim's children until this loop has collected them.
                await self._in_copy(lambda: container.delete(force=force))
            else:
                container.delete()

    # -- what is done to it -------------------------------------------------------------------------------------------

    async def kill(self, id: str, signal: int, *, all: bool) -> None:
        try:
            self._load(id).kill(signal, all=all)
        except NotFound as error:
            if error.message == "container not running":
                raise NotFound("process already finished") from None
            raise NotFound("no such container") from None
        except (Error, OSError) as error:
            raise Unknown(f"unknown error after kill: {error}") from None

    async def pause(self, id: str) -> None:
        with _failing("OCI runtime pause failed"):
            await self._in_copy(self._load(id).pause)

    async def resume(self, id: str) -> None:
        with _failing("OCI runtime resume failed"):
            await self._in_copy(self._load(id).resume)

    async def update(self, id: str, resources: bytes) -> None:
        with _failing(""):
            self._load(id).update(parse_object(resources, "resources"))

    async def checkpoint(self, id: str, image: str, work: str, options: CheckpointOptions) -> None:
        criu = CriuOptions(image, work, criu=self._criu)
        criu.leave_running = not options.exit
        criu.tcp_established = options.open_tcp
        criu.external_unix_sockets = options.external_unix_sockets
        criu.shell_job = options.terminal
        criu.file_locks = options.file_locks
        criu.empty_namespaces = list(options.empty_namespaces)
        criu.cgroups_mode = options.cgroups_mode
        with _failing(""):
            container = self._load(id)
            await self._in_copy(lambda: checkpoint(container, criu))

    async def pids(self, id: str) -> list[int]:
        with _failing(""):
            return self._load(id).pids()

    # -- how ----------------------------------------------------------------------------------------------------------

    def _options(self, bundle: str, launch: Launch, stdio: list[int], *, no_pivot: bool) -> CreateOptions:
        return CreateOptions(
            bundle,
            pid_file=launch.pid_file,
            console_socket=launch.console_socket,
            no_pivot=no_pivot,
            systemd_cgroup=self._systemd_cgroup,
            stdio=stdio,
        )

    def _load(self, id: str) -> Container:
        loaded = self._loaded
        if loaded is None or loaded.id != id or not loaded.is_current():
            self._loaded = loaded = Container.load(self._root, id)
        return loaded

    async def _until_ready(self, making: Creation | Execution) -> None:
        """Serve what a new process asks for, without waiting for it."""
        loop = asyncio.get_running_loop()
        channel = making.fileno()
        asked = asyncio.Event()
        loop.add_reader(channel, asked.set)
        try:
            while True:
                await asked.wait()
                asked.clear()
                if making.advance():
                    return
        finally:
            loop.remove_reader(channel)

    async def _in_copy(self, work: Callable[[], object]) -> None:
        """Do something in a copy of this process, which may wait as long as it likes. Its errors are raised here."""
        reading, writing = os.pipe()
        try:
            pid = self._reaper.fork(lambda: _report(work, writing))
        finally:
            os.close(writing)
        try:
            status = await self._reaper.wait(pid)
            said = os.read(reading, 65536)
        finally:
            os.close(reading)
        if said:
            kind, message = json.loads(said)
            error = NotFound() if kind == NotFound.__name__ else Unknown()
            error.message = message
            error.args = (message,)
            raise error
        if status:
            raise Unknown(f"the runtime ended with exit status {status}")


def _import_systemd_driver() -> None:
    """Import all that a systemd unit will take, as long as the package is there that this process is of."""
    from wherry.runc.cgroups import systemd  # noqa: F401

    with contextlib.suppress(ImportError):  # which is told when there is something to be done
        import jeepney  # noqa: F401


def _report(work: Callable[[], object], writing: int) -> None:
    """Work, in the copy; what goes wrong is told by a pipe."""
    signal.set_wakeup_fd(-1)
    try:
        work()
    except Error as error:
        os.write(writing, json.dumps([type(error).__name__, _words(error)]).encode()[:65536])
    except OSError as error:
        os.write(writing, json.dumps(["Unknown", str(error)]).encode()[:65536])


def _words(error: Error) -> str:
    """Return what went wrong as runc has it: without the kind of an error in what was asked for."""
    return error.message.removesuffix(f": {error.kind}") if isinstance(error, InvalidArgument) else error.message


def _require_protection() -> None:
    if not is_protected():
        raise Unknown(
            "the built-in runtime does not run from an interpreter that a container could overwrite: neither a "
            "read-only mount (CAP_SYS_ADMIN, Linux 5.12) nor a sealed copy in memory (memfd_create) was to be had; "
            "name another OCI runtime, such as runc"
        )


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Put what failed before a runtime's own words."""
    try:
        yield
    except Error as error:
        raise Unknown(f"{what}: {_words(error)}" if what else _words(error)) from None
    except OSError as error:
        raise Unknown(f"{what}: {error}" if what else str(error)) from None


@contextmanager
def _stdio(descriptors: Descriptors) -> Iterator[list[int]]:
    """Yield what become a process's 0, 1 and 2: /dev/null where nothing is named."""
    null = os.open(_NULL, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield [descriptors.get(number, null) for number in (0, 1, 2)]
    finally:
        os.close(null)

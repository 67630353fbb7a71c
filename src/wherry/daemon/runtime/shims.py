"""Starting shims: which binary a runtime's name means, and each way of starting it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from weakref import WeakValueDictionary

from wherry import identifiers
from wherry.api import shim_socket, typeurl
from wherry.api.runtime.bootstrap.v1.bootstrap_pb2 import BootstrapResult
from wherry.api.runtime.linux.runctypes import runc_pb2
from wherry.api.runtime.runc.v1 import options_pb2
from wherry.api.runtime.task.v2.task_pb2 import DeleteResponse
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.daemon.runtime import bundle as bundles
from wherry.daemon.runtime.bundle import Bundle
from wherry.errors import Error, InvalidArgument, Unavailable, Unknown
from wherry.linux import process
from wherry.linux.cgroup import join
from wherry.zygote.client import Zygote

log = logging.getLogger(__name__)

#: The runtimes that are this project's own shim.
_OWN = frozenset({"io.containerd.runc.v2", "io.containerd.wherry.v2", bundles.V1})

OWN_BINARY = "containerd-shim-wherry-v2"

#: Of the Task service that our own forked shims are spoken to with.
_VERSION = 3

FORKED = "wherry.shim.forked:main"
PROGRAM = "wherry.zygote.program:main"

#: Targets that the daemon's zygote must have for this module.
TARGETS = (FORKED, PROGRAM)

#: Seconds for a binary's `start`, and for its `delete`.
_START_TIMEOUT, _DELETE_TIMEOUT = 30.0, 5.0

#: Seconds for a process that was killed to be gone.
_END_TIMEOUT = 1.0


#: The address of a shim that is part of the daemon.
LOCAL = "local://"


class ShimProcess:
    """A shim that was started, or found again: how to reach it, and the process it is."""

    def __init__(self, address: str, version: int, binary: str, pid: int = 0, pidfd: int = -1) -> None:
        self.address = address
        self.version = version
        self.binary = binary
        self.pid = pid
        #: Owned; -1 when only the connection tells of the shim's end.
        self.pidfd = pidfd
        self._file = None if self.local else _identity(self.path)

    @property
    def own(self) -> bool:
        return os.path.basename(self.binary) == OWN_BINARY

    @property
    def local(self) -> bool:
        """Whether it is no process of its own."""
        return self.address == LOCAL

    @property
    def path(self) -> str:
        return self.address.removeprefix("ttrpc+").removeprefix("unix://")

    def kill(self) -> None:
        """End the shim itself, if it is still the process that was started."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def ended(self) -> None:
        """Return when the process has ended, or after a second: what it held is closed then."""
        if self.pidfd < 0:
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self.pidfd, gone.set)
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await gone.wait()
        except TimeoutError:
            log.warning("shim %d does not end", self.pid)
        finally:
            loop.remove_reader(self.pidfd)

    def remove_socket(self) -> None:
        """Remove the file of the socket, unless the shim serves others, or another shim has that name by now.

        That somebody listens there tells nothing of a shim that is dead: killed as it started a program, it has a child
        for a moment that holds all its descriptors.
        """
        if self.has_socket and (self._dead or not shim_socket.answers(self.path)):
            _unlink(self.path)

    @property
    def has_socket(self) -> bool:
        """Whether the file that it listened on is there."""
        return self._file is not None and _identity(self.path) == self._file

    @property
    def _dead(self) -> bool:
        poll = select.poll()
        if self.pidfd >= 0:
            poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def shim_binary(runtime: str, configured: Mapping[str, str]) -> str:
    """Return the shim's path for a runtime's name: configured, our own, one by name from PATH, or the path it is.

    Unknown, in containerd's words, for a name of no such form and for a binary that is not there.
    """
    failure = "failed to start shim: failed to resolve runtime path"
    if runtime in configured:
        name = configured[runtime]
        found = shutil.which(name)
    elif runtime in _OWN:
        return own_binary()
    elif runtime.startswith("/"):
        if not os.path.exists(runtime):
            raise Unknown(f"{failure}: invalid custom binary path: stat {runtime}: no such file or directory")
        return runtime
    else:
        parts = runtime.split(".")
        if len(parts) < 2 or "/" in runtime or not all(parts):
            raise Unknown(
                f"{failure}: invalid runtime name {runtime}, correct runtime name should be either format like "
                "`io.containerd.runc.v1` or a full path to the binary"
            )
        name = f"containerd-shim-{parts[-2]}-{parts[-1]}"
        found = shutil.which(name) or shutil.which(name, path=os.path.dirname(sys.executable))
    if found is None:
        raise Unknown(f'{failure}: runtime "{runtime}" binary not installed "{name}": file does not exist')
    return found


def own_binary() -> str:
    """Return the path of our own shim's command, where it was installed with this interpreter."""
    return own_command(OWN_BINARY)


def own_command(name: str) -> str:
    """Return the path of a command of ours, where it was installed with this interpreter."""
    return os.path.join(os.path.dirname(sys.executable), name)


def daemon_binary() -> str:
    """Return the path of wherryd, which shims run to publish."""
    return own_command("wherryd")


class Starter:
    """Starts shims for one daemon."""

    def __init__(self, zygote: Zygote, address: str, ttrpc_address: str, *, debug: bool) -> None:
        self._zygote = zygote
        self._address = address
        self._ttrpc_address = ttrpc_address
        self._debug = debug
        #: Held while the shim of a socket is started.
        self._starting: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self, binary: str, bundle: Bundle, options: AnyMessage | None, log_fd: int) -> ShimProcess:
        """Start a shim for a bundle, in the cgroup that the task's options name, if they do.

        Its log goes to `log_fd` (v2) or to FIFOs of its own (v1).
        """
        shim_cgroup = _shim_cgroup(options)
        if bundle.runtime == bundles.V1:
            shim = await self._start_v1(binary, bundle)
        elif binary == own_binary():
            shim = await self._fork_or_join(binary, bundle, log_fd)
        else:
            shim = await self._start_v2(binary, bundle, options if shim_cgroup else None)
        async with AsyncExitStack() as undo:
            undo.callback(shim.close)
            if shim.pid:
                undo.callback(shim.remove_socket)
                undo.push_async_callback(shim.ended)
                undo.callback(shim.kill)
                self._place(shim, shim_cgroup)
            undo.pop_all()
        log.info(
            "shim started",
            extra={"id": bundle.id, "namespace": bundle.namespace, "pid": shim.pid, "address": shim.address},
        )
        return shim

    def _place(self, shim: ShimProcess, cgroup: str) -> None:
        """Put a shim into the cgroup that the task's options name, and its OOM score above the daemon's."""
        if cgroup:
            try:
                join(cgroup, shim.pid)
            except OSError as error:
                reason = f"open {error.filename}: {(error.strerror or '').lower()}"
                raise Unknown(f"failed to start shim: failed to join cgroup {cgroup}: {reason}") from None
        try:
            process.adjust_oom_score(shim.pid, process.oom_score() + 1)
        except OSError as error:
            # As containerd: the container runs, only the order of dying is not the best.
            log.warning("oom_score_adj of shim %d: %s", shim.pid, error)

    async def _fork_or_join(self, binary: str, bundle: Bundle, log_fd: int) -> ShimProcess:
        """Fork a shim of our own, unless the container belongs to a group that has one: then it is that one."""
        group = shim_socket.group_of(bundle.path, bundle.id)
        path = shim_socket.path_for(self._address, bundle.namespace, group)
        # Containers of one pod may be created at the same time.
        async with self._starting.setdefault(path, asyncio.Lock()):
            if group != bundle.id and shim_socket.answers(path):
                bundle.record_shim(f"unix://{path}", _VERSION, binary)
                return ShimProcess(f"unix://{path}", _VERSION, binary)
            return await self._fork(binary, bundle, path, log_fd, version=_VERSION)

    async def _fork(self, binary: str, bundle: Bundle, path: str, log_fd: int, *, version: int) -> ShimProcess:
        title = f"{OWN_BINARY} -namespace {bundle.namespace} -id {bundle.id} -address {self._address}"
        arguments = {
            "bundle": bundle.path,
            "namespace": bundle.namespace,
            "address": self._address,
            "ttrpc_address": self._ttrpc_address,
            "publish_binary": daemon_binary(),
            "version": version,
            "debug": self._debug,
        }
        # Before there is one: a daemon that is killed in between leaves no shim that the next one does not know of.
        bundle.record_shim(f"unix://{path}", version, binary)
        with ExitStack() as undo:
            sock = shim_socket.listen(path)
            undo.callback(_unlink, path)
            with sock:
                child = await self._zygote.fork(FORKED, arguments, (sock.fileno(), log_fd), title=title)
            undo.pop_all()
        return ShimProcess(f"unix://{path}", version, binary, child.pid, child.pidfd)

    async def _start_v1(self, binary: str, bundle: Bundle) -> ShimProcess:
        """Start a shim with runtime v1's command line: it is given its listening socket as descriptor 3."""
        logs = [_fifo(os.path.join(bundle.work, f"shim.{stream}.log")) for stream in ("stdout", "stderr")]
        try:
            path = shim_socket.path_for(self._address, bundle.namespace, bundle.id)
            if binary == own_binary():
                shim = await self._fork(binary, bundle, path, logs[1], version=1)
            else:
                shim = await self._exec_v1(binary, bundle, path)
            bundle.write("shim.pid", str(shim.pid).encode())
        finally:
            for fd in logs:
                os.close(fd)
        return shim

    async def _exec_v1(self, binary: str, bundle: Bundle, path: str) -> ShimProcess:
        command = [binary, "-namespace", bundle.namespace, "-workdir", bundle.work, "-address", self._address]
        command += ["-containerd-binary", daemon_binary()]
        if self._debug:
            command.append("-debug")
        bundle.record_shim(f"unix://{path}", 1, binary)
        with ExitStack() as undo:
            sock = shim_socket.listen(path)
            undo.callback(_unlink, path)
            with sock:
                arguments = {"argv": command, "env": {**os.environ, **self._environment(bundle)}, "cwd": bundle.path}
                child = await self._zygote.fork(PROGRAM, arguments, (sock.fileno(),))
            undo.pop_all()
        return ShimProcess(f"unix://{path}", 1, binary, child.pid, child.pidfd)

    async def _start_v2(self, binary: str, bundle: Bundle, options: AnyMessage | None) -> ShimProcess:
        """Run `BINARY … start` and read from its output where the shim listens.

        `options` go to its standard input. Shims of containerd 2.3 and later want something else there, and shims of
        every version take nothing for no options: so they are given only where a shim needs them before its create.
        """
        told = options.SerializeToString() if options is not None else b""
        status, output = await self._run(binary, bundle, ["start"], _START_TIMEOUT, input=told)
        if status:
            text = output.decode(errors="replace").strip()
            raise Unknown(f"failed to start shim: start failed: {text}: exit status {status}")
        address, version = parse_start(output)
        bundle.record_shim(address, version, binary)
        return ShimProcess(address, version, binary)

    async def delete(self, binary: str, bundle: Bundle) -> DeleteResponse:
        """Run `BINARY … delete` after a shim's end. Unknown if that fails."""
        arguments = ["-bundle", bundle.path, "delete"]
        status, output = await self._run(binary, bundle, arguments, _DELETE_TIMEOUT, both=False)
        if status:
            raise Unknown(f"{binary}: delete failed: exit status {status}")
        try:
            return DeleteResponse.FromString(output)
        except Exception as error:
            raise Unknown(f"{binary}: delete answered with what is no DeleteResponse: {error}") from None

    def _environment(self, bundle: Bundle) -> dict[str, str]:
        return {
            "TTRPC_ADDRESS": self._ttrpc_address,
            "GRPC_ADDRESS": self._address,
            "NAMESPACE": bundle.namespace,
            "MAX_SHIM_VERSION": "2",
            "GOMAXPROCS": "2",
        }

    async def _run(
        self,
        binary: str,
        bundle: Bundle,
        arguments: list[str],
        timeout: float,
        *,
        both: bool = True,
        input: bytes = b"",
    ) -> tuple[int, bytes]:
        command = [binary, "-namespace", bundle.namespace, "-address", self._address]
        command += ["-publish-binary", daemon_binary(), "-id", bundle.id]
        if self._debug:
            command.append("-debug")
        child = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            cwd=bundle.path,
            env={**os.environ, **self._environment(bundle)},
            stdin=subprocess.PIPE if input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(timeout):
                output, _ = await child.communicate(input or None)
        except TimeoutError:
            child.kill()
            await child.wait()
            raise Unavailable(f"{binary} {arguments[-1]}: no answer within {timeout:.0f} s") from None
        return child.returncode or 0, output


def parse_start(output: bytes) -> tuple[str, int]:
    """Return the address and version that a shim's `start` printed: as protobuf (2.3), JSON (2.0), or bare (1.x).

    Unknown for anything else.
    """
    text = output.decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            values = json.loads(text)
            return str(values["address"]), int(values.get("version", 2))
        except (ValueError, KeyError, TypeError):
            raise Unknown(f"shim start: not understood: {text}") from None
    if text.startswith(("unix://", "ttrpc+unix://")):
        return text, 2
    try:
        result = BootstrapResult.FromString(output)
    except Exception:
        result = BootstrapResult()
    if result.address and result.protocol == "ttrpc":
        return result.address, result.version
    raise Unknown(f"shim start: not understood: {text[:200]}")


def _shim_cgroup(packed: AnyMessage | None) -> str:
    if packed is None or not packed.value:
        return ""
    message = typeurl.unpack(packed)
    if isinstance(message, (options_pb2.Options, runc_pb2.CreateOptions)):
        return message.shim_cgroup
    return ""


def _identity(path: str) -> tuple[int, int, int] | None:
    """Return what tells a file from others that had, or will have, its name; None if there is none.

    The number of its inode alone does not: some file systems give it to the next file.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _fifo(path: str) -> int:
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        pass  # a shim before this one had it
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def validate(id: str) -> None:
    """Raise InvalidArgument, "invalid task id", unless it is an identifier."""
    try:
        identifiers.validate(id)
    except Error as error:
        raise InvalidArgument(f"invalid task id: {error.message}") from None

"""OCI runtimes as a shim drives them: the interface, and the driver of binaries with runc's command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from wherry.errors import Error, NotFound, Unknown
from wherry.shim.options import CheckpointOptions
from wherry.shim.reaper import Reaper
from wherry.shim.record import has_state

Descriptors = Mapping[int, int]

#: What runtimes say of a process that has ended; the words are runc's and crun's.
_FINISHED = ("os: process already finished", "container not running", "no such process", "No such process")


class Launch:
    """What starting a process takes: its pid file, its stdio by number, or the socket that its terminal goes to."""

    __slots__ = ("console_socket", "descriptors", "pid_file")

    def __init__(self, pid_file: str, descriptors: Descriptors, console_socket: str = "") -> None:
        self.pid_file = pid_file
        self.descriptors = descriptors
        self.console_socket = console_socket


class Runtime(Protocol):
    """What a shim asks of an OCI runtime; each call is about one container. Failures are wherry errors with the
    runtime's own words. Processes that it starts are the shim's children when it returns."""

    async def create(self, id: str, bundle: str, launch: Launch, *, no_pivot: bool, no_new_keyring: bool) -> None:
        """Create the container. A failure leaves nothing of it."""

    async def restore(self, id: str, bundle: str, launch: Launch, image: str, work: str, *, no_pivot: bool) -> None:
        """Create and start the container from a checkpoint's image. A failure leaves nothing of it."""

    async def start(self, id: str) -> None:
        """Let the created process run."""

    async def exec(self, id: str, document: bytes, launch: Launch) -> None:
        """Start another process, of an OCI process document."""

    async def kill(self, id: str, signal: int, *, all: bool) -> None:
        """Send a signal to init, or to every process. NotFound if there is nothing to send it to."""

    async def delete(self, id: str, *, force: bool = False) -> None:
        """Forget the container; no error if it is unknown. `force` ends what runs."""

    async def pause(self, id: str) -> None: ...

    async def resume(self, id: str) -> None: ...

    async def update(self, id: str, resources: bytes) -> None:
        """Change the limits to those of a JSON LinuxResources."""

    async def checkpoint(self, id: str, image: str, work: str, options: CheckpointOptions) -> None:
        """Write the processes' state into a directory; `work` is where logs go."""

    async def pids(self, id: str) -> list[int]:
        """Return the container's processes."""


class RuncBinary:
    """A binary with runc's command line."""

    def __init__(
        self, reaper: Reaper, binary: str, root: str, log: str, *, systemd_cgroup: bool = False, criu: str = ""
    ) -> None:
        self._reaper = reaper
        self._binary = binary
        self._root = root
        self._log = log
        self._global = [binary, "--root", root, "--log", log, "--log-format", "json"]
        if criu:
            self._global += ["--criu", criu]
        if systemd_cgroup:
            self._global.append("--systemd-cgroup")

    async def create(self, id: str, bundle: str, launch: Launch, *, no_pivot: bool, no_new_keyring: bool) -> None:
        arguments = ["create", "--bundle", bundle, *_launch_flags(launch)]
        if no_pivot:
            arguments.append("--no-pivot")
        if no_new_keyring:
            arguments.append("--no-new-keyring")
        await self._make(id, arguments, launch, "OCI runtime create failed")

    async def restore(self, id: str, bundle: str, launch: Launch, image: str, work: str, *, no_pivot: bool) -> None:
        arguments = ["restore", "--detach", "--no-subreaper", "--bundle", bundle, *_launch_flags(launch)]
        arguments += ["--image-path", image, "--work-path", work]
        if no_pivot:
            arguments.append("--no-pivot")
        await self._make(id, arguments, launch, "OCI runtime restore failed")

    async def _make(self, id: str, arguments: list[str], launch: Launch, failure: str) -> None:
        # runc cleans up after itself unless it is killed; what was there before is somebody else's.
        existed = has_state(self._root, id)
        try:
            await self._run([*arguments, id], failure, launch)
        except Error:
            if not existed and has_state(self._root, id):
                await self._forget(id)
            raise

    async def _forget(self, id: str) -> None:
        try:
            await self.delete(id, force=True)
        except Error:
            return  # the first failure is the one to tell

    async def start(self, id: str) -> None:
        await self._run(["start", id], "OCI runtime start failed")

    async def exec(self, id: str, document: bytes, launch: Launch) -> None:
        directory, name = os.path.split(launch.pid_file)
        process_file = os.path.join(directory, f".{name}.json")
        arguments = ["exec", "--process", process_file, "--detach", *_launch_flags(launch), id]
        try:
            with open(process_file, "wb") as file:
                file.write(document)
            await self._run(arguments, "OCI runtime exec failed", launch)
        finally:
            if os.path.lexists(process_file):
                os.unlink(process_file)

    async def kill(self, id: str, signal: int, *, all: bool) -> None:
        status, output = await self._output(["kill", *(["--all"] if all else []), id, str(signal)])
        if not status:
            return
        if any(words in output for words in _FINISHED):
            raise NotFound("process already finished")
        if "does not exist" in output:
            raise NotFound("no such container")
        raise Unknown(f"unknown error after kill: {self._failed(status, output)}")

    async def delete(self, id: str, *, force: bool = False) -> None:
        try:
            await self._run(["delete", *(["--force"] if force else []), id], "failed to delete task")
        except Error as error:
            # After a checkpoint that stopped it runc has forgotten a container by itself.
            if "does not exist" not in error.message:
                raise

    async def pause(self, id: str) -> None:
        await self._run(["pause", id], "OCI runtime pause failed")

    async def resume(self, id: str) -> None:
        await self._run(["resume", id], "OCI runtime resume failed")

    async def update(self, id: str, resources: bytes) -> None:
        # Not a pipe: a document longer than its buffer would hold us up.
        fd = os.memfd_create("resources")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(resources)
            os.lseek(fd, 0, os.SEEK_SET)
            status, output = await self._output(["update", "--resources=-", id], {0: fd})
        finally:
            os.close(fd)
        if status:
            raise Unknown(self._failed(status, output))

    async def checkpoint(self, id: str, image: str, work: str, options: CheckpointOptions) -> None:
        arguments = ["checkpoint", "--image-path", image, "--work-path", work, *_criu_flags(options)]
        if not options.exit:
            arguments.append("--leave-running")
        status, output = await self._output([*arguments, id])
        if status:
            raise Unknown(self._failed(status, output))

    async def pids(self, id: str) -> list[int]:
        status, output = await self._output(["ps", "--format", "json", id], streams=(1,))
        if status:
            raise Unknown(self._failed(status, output))
        found = json.loads(output or "null")
        return [int(pid) for pid in found or ()]

    # -- running it -------------------------------------------------------------------------------------------------

    def _failed(self, status: int, output: str) -> str:
        """Return the words of Go's library for runc."""
        return f"{self._binary} did not terminate successfully: exit status {status}: {output}"

    async def _run(self, arguments: Sequence[str], failure: str, launch: Launch | None = None) -> None:
        """Run the binary and raise its own reason if it fails: from its log, else from what it printed."""
        logged = self._log_size()
        try:
            if launch is None:
                status, output = await self._output(arguments)
            else:
                # The container inherits these: a pipe of ours among them would stay open as long as it lives.
                status, output = await self._reaper.wait(self._spawn(arguments, launch.descriptors)), ""
            reason = self._failed(status, output) if status else ""
        except Unknown as error:
            reason = error.message
        if not reason:
            return
        message = self._last_error(logged)
        if message is None:
            missing = f"open {self._log}: no such file or directory"
            raise Unknown(f"{failure}: unable to retrieve OCI runtime error ({missing}): {reason}")
        raise Unknown(f"{failure}: {message or reason}")

    def _spawn(self, arguments: Sequence[str], descriptors: Descriptors) -> int:
        try:
            return self._reaper.spawn([*self._global, *arguments], descriptors)
        except FileNotFoundError:
            if "/" in self._binary:
                raise Unknown(f"fork/exec {self._binary}: no such file or directory") from None
            raise Unknown(f'exec: "{self._binary}": executable file not found in $PATH') from None
        except OSError as error:
            raise Unknown(f"fork/exec {self._binary}: {(error.strerror or '').lower()}") from None

    async def _output(
        self, arguments: Sequence[str], descriptors: Descriptors | None = None, streams: Sequence[int] = (1, 2)
    ) -> tuple[int, str]:
        """Run the binary and return its status and what it printed on the streams."""
        # A file: a hook that goes on in the background would keep the writing end of a pipe.
        fd = os.memfd_create("output")
        try:
            pid = self._spawn(arguments, {**(descriptors or {}), **dict.fromkeys(streams, fd)})
            status = await self._reaper.wait(pid)
            output = os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
        return status, output.decode(errors="replace").strip()

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except FileNotFoundError:
            return 0

    def _last_error(self, start: int) -> str | None:
        """Return the last error logged after an offset, "" without one, None without a log."""
        try:
            with open(self._log, "rb") as file:
                file.seek(start)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return None
        message = ""
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line that a dying runtime did not finish
            if isinstance(entry, dict) and entry.get("level") == "error":
                message = str(entry.get("msg", "")).strip()
        return message


def _launch_flags(launch: Launch) -> list[str]:
    flags = ["--pid-file", launch.pid_file]
    if launch.console_socket:
        flags += ["--console-socket", launch.console_socket]
    return flags


def _criu_flags(options: CheckpointOptions) -> list[str]:
    flags = []
    if options.open_tcp:
        flags.append("--tcp-established")
    if options.external_unix_sockets:
        flags.append("--ext-unix-sk")
    if options.terminal:
        flags.append("--shell-job")
    if options.file_locks:
        flags.append("--file-locks")
    for namespace in options.empty_namespaces:
        flags += ["--empty-ns", namespace]
    if options.cgroups_mode:
        flags += ["--manage-cgroups-mode", options.cgroups_mode]
    return flags

"""OCI runtimes as a shim drives them: the interface, and the driver of binaries with runc's command line."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from wherry.errors import Error, NotFound, Unknown
from wherry.shim.options import CheckpointOptions
from wherry.shim.reaper import Reaper

Descriptors = Mapping[int, int]


class Runtime(Protocol):
    """What a shim asks of an OCI runtime; each call is about one container. Failures are wherry errors with the
    runtime's own words."""

    async def create(
        self,
        id: str,
        bundle: str,
        pid_file: str,
        descriptors: Descriptors,
        console_socket: str,
        no_pivot: bool,
        no_new_keyring: bool,
    ) -> None:
        """Create the container, with these descriptors as its stdio, or a terminal sent to the console socket."""

    async def start(self, id: str) -> None: ...

    async def exec(
        self, id: str, process_file: str, pid_file: str, descriptors: Descriptors, console_socket: str
    ) -> None: ...

    async def kill(self, id: str, signal: int, all: bool) -> None: ...

    async def delete(self, id: str, force: bool = False) -> None: ...

    async def pause(self, id: str) -> None: ...

    async def resume(self, id: str) -> None: ...

    async def update(self, id: str, resources: bytes) -> None:
        """Change the limits to those of a JSON LinuxResources."""

    async def checkpoint(self, id: str, image: str, work: str, options: CheckpointOptions) -> None: ...

    async def restore(
        self,
        id: str,
        bundle: str,
        pid_file: str,
        descriptors: Descriptors,
        console_socket: str,
        image: str,
        work: str,
        no_pivot: bool,
    ) -> None: ...

    async def pids(self, id: str) -> list[int]:
        """Return the container's processes."""


class RuncBinary:
    """A binary with runc's command line."""

    def __init__(
        self, reaper: Reaper, binary: str, root: str, log: str, *, systemd_cgroup: bool = False, criu: str = ""
    ) -> None:
        self._reaper = reaper
        self._log = log
        self._global = [binary, "--root", root, "--log", log, "--log-format", "json"]
        if systemd_cgroup:
            self._global.append("--systemd-cgroup")
        if criu:
            self._global += ["--criu", criu]

    async def create(
        self,
        id: str,
        bundle: str,
        pid_file: str,
        descriptors: Descriptors,
        console_socket: str,
        no_pivot: bool,
        no_new_keyring: bool,
    ) -> None:
        arguments = ["create", "--bundle", bundle, "--pid-file", pid_file]
        if console_socket:
            arguments += ["--console-socket", console_socket]
        if no_pivot:
            arguments.append("--no-pivot")
        if no_new_keyring:
            arguments.append("--no-new-keyring")
        await self._run([*arguments, id], "OCI runtime create failed", descriptors)

    async def start(self, id: str) -> None:
        await self._run(["start", id], "OCI runtime start failed")

    async def exec(
        self, id: str, process_file: str, pid_file: str, descriptors: Descriptors, console_socket: str
    ) -> None:
        arguments = ["exec", "--process", process_file, "--detach", "--pid-file", pid_file]
        if console_socket:
            arguments += ["--console-socket", console_socket]
        await self._run([*arguments, id], "OCI runtime exec failed", descriptors)

    async def kill(self, id: str, signal: int, all: bool) -> None:
        status, output = await self._output(["kill", *(["--all"] if all else []), id, str(signal)])
        if not status:
            return
        # The words are runc's and crun's; the kinds are what clients decide by.
        if any(
            words in output
            for words in ("process already finished", "container not running", "no such process", "No such process")
        ):
            raise NotFound("process already finished")
        if "does not exist" in output:
            raise NotFound("no such container")
        raise Unknown(f"unknown error after kill: exit status {status}: {output}")

    async def delete(self, id: str, force: bool = False) -> None:
        try:
            await self._run(["delete", *(["--force"] if force else []), id], "failed to delete task")
        except Error as error:
            if "does not exist" not in error.message:
                raise

    async def pause(self, id: str) -> None:
        await self._run(["pause", id], "OCI runtime pause failed")

    async def resume(self, id: str) -> None:
        await self._run(["resume", id], "OCI runtime resume failed")

    async def update(self, id: str, resources: bytes) -> None:
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            # At most a page or two: a pipe holds 16.
            os.write(write, resources)
            os.close(write)
            write = -1
            await self._run(["update", "--resources=-", id], "OCI runtime update failed", {0: read})
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

    async def checkpoint(self, id: str, image: str, work: str, options: CheckpointOptions) -> None:
        arguments = ["checkpoint", "--image-path", image, "--work-path", work]
        arguments += _criu_flags(options)
        if not options.exit:
            arguments.append("--leave-running")
        await self._run([*arguments, id], "OCI runtime checkpoint failed")

    async def restore(
        self,
        id: str,
        bundle: str,
        pid_file: str,
        descriptors: Descriptors,
        console_socket: str,
        image: str,
        work: str,
        no_pivot: bool,
    ) -> None:
        arguments = ["restore", "--detach", "--bundle", bundle, "--pid-file", pid_file]
        arguments += ["--image-path", image, "--work-path", work]
        if console_socket:
            arguments += ["--console-socket", console_socket]
        if no_pivot:
            arguments.append("--no-pivot")
        await self._run([*arguments, id], "OCI runtime restore failed", descriptors)

    async def pids(self, id: str) -> list[int]:
        status, output = await self._output(["ps", "--format", "json", id])
        if status:
            raise Unknown(f"exit status {status}: {output}")
        found = json.loads(output or "null")
        return [int(pid) for pid in found or ()]

    async def _run(self, arguments: Sequence[str], failure: str, descriptors: Descriptors | None = None) -> None:
        """Run the binary and raise its own reason if it fails: from its log, else from what it printed."""
        logged = self._log_size()
        if descriptors is None:
            status, output = await self._output(arguments)
        else:
            # The container inherits these: a pipe of ours among them would stay open as long as it lives.
            status, output = await self._reaper.wait(self._spawn(arguments, descriptors)), ""
        if status:
            reason = self._last_error(logged) or output or f"unable to retrieve OCI runtime error: exit status {status}"
            raise Unknown(f"{failure}: {reason}")

    def _spawn(self, arguments: Sequence[str], descriptors: Descriptors) -> int:
        try:
            return self._reaper.spawn([*self._global, *arguments], descriptors)
        except FileNotFoundError:
            raise Unknown(
                f'unable to retrieve OCI runtime error: exec: "{self._global[0]}": executable file not found in $PATH'
            ) from None
        except OSError as error:
            raise Unknown(f"exec {self._global[0]}: {(error.strerror or '').lower()}") from None

    async def _output(
        self, arguments: Sequence[str], descriptors: Descriptors | None = None, streams: Sequence[int] = (1, 2)
    ) -> tuple[int, str]:
        """Run the binary and return its status and what it printed on the streams."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                pid = self._spawn(arguments, {**(descriptors or {}), **dict.fromkeys(streams, write)})
            finally:
                os.close(write)
            output, status = await asyncio.gather(_read_all(read), self._reaper.wait(pid))
        finally:
            os.close(read)
        return status, output.decode(errors="replace").strip()

    def _log_size(self) -> int:
        try:
            return os.stat(self._log).st_size
        except FileNotFoundError:
            return 0

    def _last_error(self, start: int) -> str:
        """Return the last error logged after an offset, or ""."""
        try:
            with open(self._log, "rb") as file:
                file.seek(start)
                lines = file.read().splitlines()
        except FileNotFoundError:
            return ""
        message = ""
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # a line that a dying runtime did not finish
            if isinstance(entry, dict) and entry.get("level") == "error":
                message = str(entry.get("msg", "")).strip()
        return message


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


async def _read_all(fd: int) -> bytes:
    """Read a pipe to its end: that of the runtime, not of a container that inherited the other end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    chunks: list[bytes] = []
    ended: asyncio.Future[None] = loop.create_future()

    def read() -> None:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            return
        if chunk:
            chunks.append(chunk)
        elif not ended.done():
            loop.remove_reader(fd)
            ended.set_result(None)

    loop.add_reader(fd, read)
    try:
        await ended
    finally:
        loop.remove_reader(fd)
    return b"".join(chunks)

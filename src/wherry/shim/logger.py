"""Logging programs (`binary://`, `binary-v2://`), which read a process's output from descriptors of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from urllib.parse import parse_qsl, unquote, urlsplit

from wherry.errors import DeadlineExceeded, Unknown
from wherry.shim.reaper import Exit, Reaper

log = logging.getLogger(__name__)

#: How the URI of a logging program begins.
SCHEMES = ("binary", "binary-v2")

#: Seconds for the program to say that it is ready.
_READY_TIMEOUT = 30.0

#: Seconds for it to end by itself when the output has, before it is told to; then until it is killed, as containerd.
_END_TIMEOUT = 1.0
_STOP_TIMEOUT = 10.0


class Logger:
    """A logging program. `stdout` and `stderr` are the pipe ends that the process is to write to, until taken."""

    def __init__(self, pid: int, reaper: Reaper, stdout: int, stderr: int) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self._pid = pid
        self._reaper = reaper
        self._ended = asyncio.Event()
        reaper.watch(pid, self._note_end)

    @classmethod
    async def start(cls, uri: str, id: str, namespace: str, owner: tuple[int, int], reaper: Reaper) -> Logger:
        """Start the program of a URI: its query are arguments, key and first value of each; return when it is ready.

        It finds stdout and stderr at descriptors 3 and 4, and writes to 5 or closes it when it is ready: by
        `binary-v2` it must write, and to have closed is to have failed.
        Unknown if it cannot be started, DeadlineExceeded if it is not ready in time.
        """
        split = urlsplit(uri)
        arguments = [unquote(split.path)]
        first: dict[str, str] = {}
        for key, value in parse_qsl(split.query, keep_blank_values=True):
            first.setdefault(key, value)
        for key, value in first.items():
            arguments += [key, value]
        environment = {"CONTAINER_ID": id, "CONTAINER_NAMESPACE": namespace}
        out_read, out_write = pipe(owner)
        err_read, err_write = pipe(owner)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = reaper.spawn(arguments, {3: out_read, 4: err_read, 5: ready_write}, environment)
        except OSError as error:
            for fd in (ready_read, out_write, err_write):
                os.close(fd)
            raise Unknown(
                f"failed to start binary process: fork/exec {arguments[0]}: {(error.strerror or '').lower()}"
            ) from None
        finally:
            for fd in (out_read, err_read, ready_write):
                os.close(fd)
        logger = cls(pid, reaper, out_write, err_write)
        try:
            async with asyncio.timeout(_READY_TIMEOUT):
                await _readable(ready_read)
            if not os.read(ready_read, 1) and split.scheme == SCHEMES[1]:
                raise Unknown(f"failed to read from logging binary {arguments[0]}: EOF")
        except TimeoutError:
            logger.kill()
            raise DeadlineExceeded(f"failed to read from logging binary {arguments[0]}") from None
        except BaseException:
            logger.kill()
            raise
        finally:
            os.close(ready_read)
        return logger

    def take(self) -> tuple[int, int]:
        """Return the pipe ends, which are the caller's to close from now on."""
        taken = self.stdout, self.stderr
        self.stdout = self.stderr = -1
        return taken

    def _note_end(self, ended: Exit) -> None:
        if ended.status:
            log.warning("logging program %d ended with status %d", self._pid, ended.status)
        self._ended.set()

    async def stop(self) -> None:
        """Let it end, or make it."""
        self._close()
        for send, timeout in ((signal.SIGTERM, _END_TIMEOUT), (signal.SIGKILL, _STOP_TIMEOUT)):
            try:
                async with asyncio.timeout(timeout):
                    await self._ended.wait()
                    return
            except TimeoutError:
                self._reaper.kill(self._pid, send)
        await self._ended.wait()

    def kill(self) -> None:
        """End it at once."""
        self._close()
        self._reaper.kill(self._pid, signal.SIGKILL)

    def _close(self) -> None:
        for fd in self.take():
            if fd >= 0:
                os.close(fd)


def pipe(owner: tuple[int, int]) -> tuple[int, int]:
    """Make a pipe for a container's stdio, owned by a user and group, who may then reopen it by /dev/stdout."""
    read, write = os.pipe2(os.O_CLOEXEC)
    if owner != (0, 0):
        os.fchown(read, *owner)
        os.fchown(write, *owner)
    return read, write


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(fd, ready)
    try:
        await future
    finally:
        loop.remove_reader(fd)

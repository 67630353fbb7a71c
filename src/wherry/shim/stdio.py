"""A process's stdio: what its three streams are connected to.

The client names FIFOs (or files, or a logging program); the container gets pipes, or a terminal; copiers connect the
two. Bytes between pipes and FIFOs never pass through Python.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from wherry.errors import DeadlineExceeded, Error, Unavailable, Unknown
from wherry.shim.copier import Copier
from wherry.shim.logger import SCHEMES, Logger, pipe
from wherry.shim.reaper import Reaper

#: Seconds that Create waits for a client to open the other end of a FIFO.
_OPEN_TIMEOUT = 30.0

#: Seconds between looks whether it has: the first, and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1

#: Seconds that Delete waits for output on its way, as containerd 2.x does; what is left then is given up.
_DRAIN_TIMEOUT = 10.0

#: How containerd's errors begin, by what was being done.
_IO_FAILED = "failed to create init process I/O"
_COPY_FAILED = "failed to start io pipe copy: unable to copy pipes"
_CONSOLE_FAILED = "failed to start console copy"


class Stdio:
    """What a request says of a process's streams; empty names mean /dev/null."""

    __slots__ = ("stderr", "stdin", "stdout", "terminal")

    def __init__(self, stdin: str = "", stdout: str = "", stderr: str = "", terminal: bool = False) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal


class Streams:
    """A process's streams while it lives: the descriptors to start it with, then the copiers."""

    def __init__(self, stdio: Stdio, id: str, namespace: str, owner: tuple[int, int], reaper: Reaper) -> None:
        """`owner` is who owns the container's pipes; id and namespace are told to a logging program."""
        self._stdio = stdio
        self._id = id
        self._namespace = namespace
        self._owner = owner
        self._reaper = reaper
        #: Descriptors for the runtime to start the process with, by number; closed by `started` or `close`.
        self.descriptors: dict[int, int] = {}
        self._copiers: list[Copier] = []
        self._kept: list[int] = []
        self._stdin_writer = -1
        self._stdin_closed = False
        self._output = 0
        self._drained = asyncio.Event()
        self._logger: Logger | None = None
        self._closed = False
        self._terminal_input: Copier | None = None
        self._hang_up: Callable[[], None] = _nothing

    # -- opening ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open what the request names and make the container's pipes. On any failure the caller closes.

        Unknown for a name that cannot be used, DeadlineExceeded when nobody opens a FIFO's other end in time.
        """
        stdio = self._stdio
        scheme = urlsplit(stdio.stdout).scheme
        if scheme in SCHEMES:
            self._logger = await self._start_logger()
            self.descriptors[1], self.descriptors[2] = self._logger.take()
            return
        if scheme == "file":
            for number in (1, 2):
                self._pipe_to(number, _open_log_file(stdio.stdout))
        elif scheme in ("", "fifo"):
            for number, name in ((1, stdio.stdout), (2, stdio.stderr)):
                if name:
                    self._pipe_to(number, await self._open_output(name, _COPY_FAILED))
        else:
            raise Unknown(f"{_IO_FAILED}: unknown STDIO scheme {scheme}")
        if stdio.stdin:
            self._pipe_from(stdio.stdin)

    async def connect_terminal(self, master: int, hang_up: Callable[[], None]) -> None:
        """Copy between a terminal's master and what the request names; the master stays the caller's.

        There is one output, and its name is stdout. When stdin ends the user is gone: `hang_up` is called then, for the
        caller to close the master too. Fails as `open` does.
        """
        stdio = self._stdio
        scheme = urlsplit(stdio.stdout).scheme
        if scheme in SCHEMES:
            self._logger = await self._start_logger()
            target, unused = self._logger.take()
            os.close(unused)
        elif scheme == "file":
            target = _open_log_file(stdio.stdout)
        else:
            # Somebody must read: a process stops when the terminal's buffer is full.
            target = await self._open_output(stdio.stdout or os.devnull, _CONSOLE_FAILED)
        self._add_output(os.dup(master), target, splice=False)
        self._copiers[-1].start()
        if stdio.stdin:
            self._hang_up = hang_up
            source = self._open_input(stdio.stdin, _CONSOLE_FAILED)
            target = os.dup(master)
            self._terminal_input = Copier(source, target, self._terminal_input_done, output=False, splice=False)
            self._terminal_input.start()

    def _terminal_input_done(self) -> None:
        if self._terminal_input is not None and self._terminal_input.ended:
            for copier in self._copiers:
                copier.finish()
            self._hang_up()

    async def _start_logger(self) -> Logger:
        try:
            logger = await Logger.start(self._stdio.stdout, self._id, self._namespace, self._owner, self._reaper)
        except Error as error:
            raise Unknown(f"{_IO_FAILED}: {error.message}") from None
        if self._closed:
            logger.kill()
            self._check_open()
        return logger

    async def _open_output(self, name: str, failure: str) -> int:
        """Open a FIFO or file to write to. For a FIFO a read end is kept too: a client that goes breaks no pipe."""
        path = unquote(urlsplit(name).path) if name.startswith("fifo:") else name
        try:
            if not stat.S_ISFIFO(os.stat(path).st_mode):
                return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            target = await self._open_fifo(path, failure)
            try:
                self._kept.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError:
                os.close(target)
                raise
        except OSError as error:
            reason = f"{path}: {(error.strerror or '').lower()}"
            if failure == _CONSOLE_FAILED:
                raise Unknown(f"{failure}: stat {reason}") from None
            raise Unknown(f'{failure}: containerd-shim: opening file "{path}" failed: open {reason}') from None
        return target

    async def _open_fifo(self, path: str, failure: str) -> int:
        # A blocking open would hold up everything: the kernel has no way to be told when a reader comes.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _OPEN_TIMEOUT
        pause = _FIRST_PAUSE
        while True:
            try:
                return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            if loop.time() > deadline:
                raise DeadlineExceeded(f'{failure}: containerd-shim: opening w/o fifo "{path}" failed')
            await asyncio.sleep(pause)
            self._check_open()
            pause = min(_LONGEST_PAUSE, pause * 2)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the streams were closed before the process was started")

    def _pipe_to(self, number: int, target: int) -> None:
        source, sink = pipe(self._owner)
        self.descriptors[number] = sink
        self._add_output(source, target)

    def _add_output(self, source: int, target: int, *, splice: bool = True) -> None:
        self._output += 1
        self._copiers.append(Copier(source, target, self._output_done, output=True, splice=splice))

    def _output_done(self) -> None:
        self._output -= 1
        if not self._output:
            # A client reads until the end of its FIFO before it deletes: the ends go now, not with Delete.
            self._close_kept()
            self._drained.set()

    def _pipe_from(self, name: str) -> None:
        source = self._open_input(name, _COPY_FAILED)
        if stat.S_ISFIFO(os.fstat(source).st_mode):
            self.descriptors[0], target = pipe(self._owner)
            self._copiers.append(Copier(source, target, _nothing, output=False))
        else:
            # epoll has no word on files: the process reads it itself.
            os.set_blocking(source, True)
            self.descriptors[0] = source

    def _open_input(self, name: str, failure: str) -> int:
        path = unquote(urlsplit(name).path) if name.startswith("fifo:") else name
        try:
            source = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISFIFO(os.fstat(source).st_mode) and not self._stdin_closed:
                # Until CloseIO stdin must not end, though the client opens its end later, or again.
                self._stdin_writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            reason = f"open {path}: {(error.strerror or '').lower()}"
            raise Unknown(f"{failure}: containerd-shim: opening {path} failed: {reason}") from None
        return source

    # -- life -------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Close the container's ends of the pipes, as it has its own now, and copy.

        Not before: what a runtime that fails has to say goes into its error, not to the container's client.
        """
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()
        self._check_open()
        for copier in self._copiers:
            copier.start()

    def close_stdin(self) -> None:
        """Drop the shim's own writer of stdin: it ends when the client closes its end (CloseIO)."""
        self._stdin_closed = True
        if self._stdin_writer >= 0:
            os.close(self._stdin_writer)
            self._stdin_writer = -1

    async def finish(self) -> None:
        """Wait until all output has gone its way, but not for ever; then close everything."""
        if self._output:
            try:
                async with asyncio.timeout(_DRAIN_TIMEOUT):
                    await self._drained.wait()
            except TimeoutError:
                pass  # its client reads no more, or a process elsewhere still holds its stdout
        logger, self._logger = self._logger, None
        self.close()
        if logger is not None:
            await logger.stop()

    def close(self) -> None:
        """Close everything, whatever state it is in."""
        self._closed = True
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()
        self.close_stdin()
        if self._terminal_input is not None:
            self._terminal_input.close()
        for copier in self._copiers:
            copier.close()
        self._close_kept()
        if self._logger is not None:
            self._logger.kill()
            self._logger = None

    def _close_kept(self) -> None:
        while self._kept:
            os.close(self._kept.pop())


def _open_log_file(uri: str) -> int:
    path = unquote(urlsplit(uri).path)
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Unknown(f"{_IO_FAILED}: open {error.filename}: {(error.strerror or '').lower()}") from None


def _nothing() -> None:
    """Input has nobody who waits for its end."""

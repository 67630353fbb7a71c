"""A process's stdio: what its three streams are connected to, and the copying between.

The client names FIFOs (or files, or a logging program); the container gets pipes, or a terminal. Bytes go from the one
to the other by splice(2), so they never pass through Python; where splice cannot go (terminals, files opened to append)
they are read and written.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import stat
from collections.abc import Callable
from urllib.parse import parse_qs, unquote, urlsplit

from wherry.errors import InvalidArgument, Unavailable, Unknown
from wherry.shim.reaper import Reaper

#: Seconds that Create waits for a client to open the other end of a FIFO.
_OPEN_TIMEOUT = 30.0

#: Seconds that Delete waits for output on its way, as containerd 2.x does; what is left then is given up.
DRAIN_TIMEOUT = 10.0

_CHUNK = 64 << 10

#: Bytes moved in one go before other streams get their turn.
_TURN = 1 << 20


class Stdio:
    """What a request says of a process's streams; empty names mean /dev/null."""

    __slots__ = ("stderr", "stdin", "stdout", "terminal")

    def __init__(self, stdin: str = "", stdout: str = "", stderr: str = "", terminal: bool = False) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.terminal = terminal


class Copier:
    """Copies from one descriptor to another until the source ends; owns both and closes them then."""

    def __init__(self, source: int, target: int, done: Callable[[], None], *, splice: bool = True) -> None:
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._target = target
        self._done = done
        self._splice = splice
        self._pending = b""
        self._writable = select.poll()
        self._writable.register(target, select.POLLOUT)
        os.set_blocking(source, False)
        os.set_blocking(target, False)
        self.finished = False
        self._started = False

    def start(self) -> None:
        """Begin to copy. Does nothing the second time."""
        if not self._started and not self.finished:
            self._started = True
            self._loop.add_reader(self._source, self._copy)

    def _copy(self) -> None:
        moved = 0
        try:
            while moved < _TURN:
                count = self._splice_once() if self._splice else self._write_once()
                if count == 0:
                    self.close()
                    return
                moved += count
        except BlockingIOError:
            # Either end may be the one that blocks: the target, if it cannot be written now.
            if not self._writable.poll(0):
                self._loop.remove_reader(self._source)
                self._loop.add_writer(self._target, self._resume)
        except OSError:
            # EPIPE: nobody will ever read. EIO: the last descriptor of the terminal's other side was closed.
            self.close()

    def _splice_once(self) -> int:
        try:
            return os.splice(self._source, self._target, _TURN, flags=_SPLICE_FLAGS)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._splice = False
            return self._write_once()

    def _write_once(self) -> int:
        if not self._pending:
            self._pending = os.read(self._source, _CHUNK)
            if not self._pending:
                return 0
        count = os.write(self._target, self._pending)
        self._pending = self._pending[count:]
        return count

    def _resume(self) -> None:
        self._loop.remove_writer(self._target)
        self._loop.add_reader(self._source, self._copy)
        self._copy()

    def close(self) -> None:
        """Stop copying and close both ends. Does nothing the second time."""
        if self.finished:
            return
        self.finished = True
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        os.close(self._source)
        os.close(self._target)
        self._done()


#: SPLICE_F_MOVE | SPLICE_F_NONBLOCK, splice(2).
_SPLICE_FLAGS = 0x01 | 0x02


class Streams:
    """A process's streams while it lives: the descriptors to start it with, then the copiers."""

    def __init__(self, stdio: Stdio) -> None:
        self.stdio = stdio
        #: Descriptors for the runtime to start the process with, by number; closed by `started` or `close`.
        self.descriptors: dict[int, int] = {}
        self._copiers: list[Copier] = []
        self._kept: list[int] = []  # read ends of output FIFOs, so that a client that goes away breaks no pipe
        self._stdin_writer: int | None = None
        self._stdin_copier: Copier | None = None
        self._drained = asyncio.Event()
        self._output = 0
        self._logger: tuple[int, Reaper] | None = None

    # -- opening ----------------------------------------------------------------------------------------------------

    async def open(self, uid: int, gid: int, reaper: Reaper, environment: dict[str, str]) -> None:
        """Open what the request names and make the container's pipes, owned by uid and gid.

        InvalidArgument for a name that cannot be used, Unavailable when nobody opens a FIFO's other end in time. On any
        failure the caller closes.
        """
        stdio = self.stdio
        scheme = urlsplit(stdio.stdout).scheme
        if scheme == "binary":
            await self._open_logger(stdio.stdout, uid, gid, reaper, environment)
            return
        if scheme == "file":
            await self._open_log_file(stdio.stdout, uid, gid)
        elif scheme not in ("", "fifo"):
            raise InvalidArgument(f"unsupported log driver {scheme!r} in {stdio.stdout!r}")
        else:
            for number, name in ((1, stdio.stdout), (2, stdio.stderr)):
                if name:
                    await self._open_output(number, name, uid, gid)
        if stdio.stdin:
            self._open_input(stdio.stdin, uid, gid)

    async def _open_output(self, number: int, name: str, uid: int, gid: int) -> None:
        target, keep = await open_output(name)
        if keep is not None:
            self._kept.append(keep)
        self._pipe_to(number, target, uid, gid)

    def _pipe_to(self, number: int, target: int, uid: int, gid: int) -> None:
        source, sink = _pipe(uid, gid)
        self.descriptors[number] = sink
        self._add_output(source, target)

    def _add_output(self, source: int, target: int, *, splice: bool = True) -> None:
        self._output += 1
        self._copiers.append(Copier(source, target, self._output_done, splice=splice))

    def _output_done(self) -> None:
        self._output -= 1
        if not self._output:
            # A client reads until the end of its FIFO before it deletes: the ends go now, not with Delete.
            while self._kept:
                os.close(self._kept.pop())
            self._drained.set()

    def _open_input(self, name: str, uid: int, gid: int) -> None:
        source = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        sink, target = _pipe(uid, gid)
        self.descriptors[0] = sink
        self._keep_stdin_open(name)
        self._stdin_copier = Copier(source, target, lambda: None)

    def _keep_stdin_open(self, name: str) -> None:
        # Until CloseIO the container's stdin must not end, even if the client has not opened its end yet or reopens it.
        self._stdin_writer = os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    async def _open_log_file(self, uri: str, uid: int, gid: int) -> None:
        path = unquote(urlsplit(uri).path)
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        for number in (1, 2):
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._pipe_to(number, target, uid, gid)

    async def _open_logger(self, uri: str, uid: int, gid: int, reaper: Reaper, environment: dict[str, str]) -> None:
        """Start a logging program: it reads stdout and stderr as descriptors 3 and 4 and is ready when it closes 5."""
        split = urlsplit(uri)
        arguments = [unquote(split.path)]
        for key, values in parse_qs(split.query, keep_blank_values=True).items():
            arguments += [key, values[0]] if values[0] else [key]
        out_read, out_write = _pipe(uid, gid)
        err_read, err_write = _pipe(uid, gid)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = reaper.spawn(arguments, {3: out_read, 4: err_read, 5: ready_write}, environment)
        except OSError as error:
            os.close(ready_read)
            os.close(out_write)
            os.close(err_write)
            raise Unknown(f"failed to start binary process {arguments[0]!r}: {error.strerror}") from None
        finally:
            for fd in (out_read, err_read, ready_write):
                os.close(fd)
        self.descriptors.update({1: out_write, 2: err_write})
        self._logger = (pid, reaper)
        try:
            await _readable(ready_read)
        finally:
            os.close(ready_read)

    # -- terminal ---------------------------------------------------------------------------------------------------

    async def connect_terminal(self, master: int) -> None:
        """Copy between a terminal's master and the FIFOs; the master stays the caller's."""
        if self.stdio.stdout:
            target, keep = await open_output(self.stdio.stdout)
            if keep is not None:
                self._kept.append(keep)
            self._add_output(os.dup(master), target, splice=False)
        if self.stdio.stdin:
            source = os.open(self.stdio.stdin, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._keep_stdin_open(self.stdio.stdin)
            self._stdin_copier = Copier(source, os.dup(master), lambda: None, splice=False)

    # -- life -------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        """Close the container's ends of the pipes, as it has its own now, and copy.

        Not before: what a runtime that fails has to say goes into its error, not to the container's client.
        """
        self._close_descriptors()
        for copier in (*self._copiers, self._stdin_copier):
            if copier is not None:
                copier.start()

    def _close_descriptors(self) -> None:
        for fd in self.descriptors.values():
            os.close(fd)
        self.descriptors.clear()

    def close_stdin(self) -> None:
        """Drop the shim's own writer of stdin: it ends when the client closes its end (CloseIO)."""
        if self._stdin_writer is not None:
            os.close(self._stdin_writer)
            self._stdin_writer = None

    async def drain(self) -> None:
        """Wait until all output has gone its way, at most DRAIN_TIMEOUT seconds."""
        if self._output:
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._drained.wait()
            except TimeoutError:
                pass  # a process outside the container still holds its stdout: Delete does not wait for it for ever

    def close(self) -> None:
        """Close everything, whatever state it is in."""
        self._close_descriptors()
        self.close_stdin()
        if self._stdin_copier is not None:
            self._stdin_copier.close()
        for copier in self._copiers:
            copier.close()
        while self._kept:
            os.close(self._kept.pop())
        if self._logger is not None:
            pid, reaper = self._logger
            self._logger = None
            stop_logger(pid, reaper)


def stop_logger(pid: int, reaper: Reaper) -> None:
    """End a logging program: SIGTERM, and SIGKILL after ten seconds, as containerd does."""
    loop = asyncio.get_running_loop()
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    kill = loop.call_later(10, os.kill, pid, signal.SIGKILL)
    reaper.watch(pid, lambda _exit: kill.cancel())


def _pipe(uid: int, gid: int) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    if uid or gid:
        os.fchown(read, uid, gid)
        os.fchown(write, uid, gid)
    return read, write


async def open_output(name: str) -> tuple[int, int | None]:
    """Open a FIFO or file to write to; for a FIFO also a read end to keep. Unavailable if no reader comes in 30 s."""
    path = unquote(urlsplit(name).path) if name.startswith("fifo:") else name
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), None
    deadline = asyncio.get_running_loop().time() + _OPEN_TIMEOUT
    pause = 0.001
    while True:
        try:
            target = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable(f"fifo {path}: nobody opened it for reading within {_OPEN_TIMEOUT:.0f} s") from None
        await asyncio.sleep(pause)
        pause = min(0.1, pause * 2)
    return target, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


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

"""The client's side of a task's stdio: FIFOs, and the copying between them and this process's own streams."""

from __future__ import annotations

import errno
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Poller(Protocol):
        """Who calls back when a descriptor can be read: a blocking channel, while it waits."""

        def add_reader(self, fd: int, callback: Callable[[], None], /) -> None: ...
        def remove_reader(self, fd: int, /) -> None: ...
        def wait(self, timeout: float | None = None) -> None: ...


#: Where containerd's clients make their FIFOs.
FIFO_FOLDER = "/run/containerd/fifo"

_CHUNK = 64 << 10


class Fifos:
    """The FIFOs of one process, in a directory of their own; empty names for what is not connected."""

    def __init__(self, id: str, *, stdin: bool, terminal: bool, folder: str = FIFO_FOLDER) -> None:
        """Make them. OSError if that fails; nothing is left then."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._directory = os.path.join(folder, os.urandom(5).hex())
        os.mkdir(self._directory, 0o700)
        self.stdin = self._name(id, "stdin") if stdin else ""
        self.stdout = self._name(id, "stdout")
        self.stderr = "" if terminal else self._name(id, "stderr")
        try:
            for name in (self.stdin, self.stdout, self.stderr):
                if name:
                    os.mkfifo(name, 0o700)
        except BaseException:
            self.remove()
            raise

    def _name(self, id: str, stream: str) -> str:
        return os.path.join(self._directory, f"{id}-{stream}")

    def remove(self) -> None:
        """Remove them. No error for what is gone."""
        for name in (self.stdin, self.stdout, self.stderr):
            if name:
                try:
                    os.unlink(name)
                except FileNotFoundError:
                    continue
        try:
            os.rmdir(self._directory)
        except FileNotFoundError:
            return


class Streams:
    """Copies between FIFOs and descriptors of this process while the poller waits."""

    def __init__(self, poller: Poller, fifos: Fifos) -> None:
        self._poller = poller
        self._fifos = fifos
        self._outputs: dict[int, int] = {}
        self._keepers: list[int] = []
        self._stdin = -1
        self._stdin_source = -1
        self._pending = b""
        self._on_stdin_end: Callable[[], None] | None = None

    def open_outputs(self, stdout: int, stderr: int) -> None:
        """Open the output FIFOs for reading, so that the shim finds a reader, and copy what comes to descriptors."""
        for name, target in ((self._fifos.stdout, stdout), (self._fifos.stderr, stderr)):
            if not name:
                continue
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            # Until the shim has it open, there would be an end of file to read all the time.
            self._keepers.append(os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._outputs[fd] = target
            self._poller.add_reader(fd, lambda fd=fd: self._copy_output(fd))  # type: ignore[misc]

    def opened(self) -> None:
        """Say that the shim has opened its ends: their end is the end of the output from now on."""
        while self._keepers:
            os.close(self._keepers.pop())

    def _copy_output(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        if data:
            try:
                write_all(self._outputs[fd], data)
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                # Whoever read our output is gone, as in `wherry run … | head -1`: take the rest and drop it.
                self._outputs[fd] = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            return
        self._poller.remove_reader(fd)
        del self._outputs[fd]
        os.close(fd)

    def open_input(self, source: int, on_end: Callable[[], None]) -> None:
        """Copy a descriptor to the container's stdin, once the shim has it open; call `on_end` at the source's end."""
        self._stdin = os.open(self._fifos.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stdin_source = source
        self._on_stdin_end = on_end
        self._add_stdin()

    def _add_stdin(self) -> None:
        try:
            self._poller.add_reader(self._stdin_source, self._copy_input)
        except PermissionError:
            # A regular file cannot be waited for (EPERM of epoll): it is always ready.
            while self._stdin >= 0:
                self._copy_input()

    def _copy_input(self) -> None:
        try:
            data = os.read(self._stdin_source, _CHUNK)
            if data:
                write_all(self._stdin, data)
                return
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
        self.close_input()
        if self._on_stdin_end is not None:
            self._on_stdin_end()

    def close_input(self) -> None:
        """Stop copying to stdin."""
        if self._stdin >= 0:
            self._poller.remove_reader(self._stdin_source)
            os.close(self._stdin)
            self._stdin = -1

    def drain(self, timeout: float) -> None:
        """Copy until the outputs have ended, or nothing came for `timeout` seconds: they may be held for ever."""
        self.opened()
        while self._outputs:
            before = {fd: _readable(fd) for fd in self._outputs}
            if not any(before.values()) and not select.select(list(self._outputs), [], [], timeout)[0]:
                return
            for fd in list(self._outputs):
                if _readable(fd):
                    self._copy_output(fd)

    def close(self) -> None:
        """Close everything. Does nothing the second time."""
        self.opened()
        self.close_input()
        for fd in self._outputs:
            self._poller.remove_reader(fd)
            os.close(fd)
        self._outputs.clear()


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def write_all(fd: int, data: bytes) -> None:
    """Write bytes to a descriptor, whether it blocks or not."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])

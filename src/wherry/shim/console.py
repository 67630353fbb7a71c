"""Terminals: the console socket on which a runtime hands over a pty's master, and the master's size."""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import socket
import struct
import tempfile
import termios
from types import TracebackType

from wherry.errors import Unknown


class ConsoleSocket:
    """A unix socket on which exactly one descriptor is received. A context manager: leaving removes the socket."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="pty")
        self.path = os.path.join(self._folder, "pty.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.path)
        self._socket.listen(1)

    def __enter__(self) -> ConsoleSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def receive_master(self) -> int:
        """Return the master's descriptor. Unknown if the runtime sends something else, or has not connected."""
        # The runtime has ended by now: what it sent is here or will never be.
        try:
            connection, _address = self._socket.accept()
        except BlockingIOError:
            raise Unknown(
                "failed to retrieve console master: the runtime did not connect to the console socket"
            ) from None
        with connection:
            connection.setblocking(False)
            fds = array.array("i")
            _data, ancillary, _flags, _address = connection.recvmsg(4096, socket.CMSG_SPACE(4 * fds.itemsize))
            for level, type_, data in ancillary:
                if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise Unknown(f"failed to retrieve console master: {len(fds)} descriptors came instead of one")
        os.set_inheritable(fds[0], False)
        return fds[0]


def resize(master: int, width: int, height: int) -> None:
    """Set a terminal's size in columns and rows (TIOCSWINSZ, ioctl_tty(2)); the kernel sends SIGWINCH."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

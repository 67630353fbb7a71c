"""Terminals: the console socket on which a runtime hands over a pty's master, and the master's size."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
from types import TracebackType

from wherry.errors import Unknown


class ConsoleSocket:
    """A unix socket in a bundle on which exactly one descriptor is received. Leaving its context removes it."""

    def __init__(self, bundle: str, id: str) -> None:
        self._name = f".{id}.pty"
        # A socket's path holds 107 bytes, and a bundle's may be longer: both ends go by this descriptor instead.
        self._folder = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        #: Where the runtime, another process, finds it.
        self.path = f"/proc/{os.getpid()}/fd/{self._folder}/{self._name}"
        try:
            self._unlink()
            self._socket.bind(self.path)
            self._socket.listen(1)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> ConsoleSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unlink()
        self._close()

    def _unlink(self) -> None:
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except FileNotFoundError:
            return  # the bundle is gone, or there was none before

    def _close(self) -> None:
        self._socket.close()
        os.close(self._folder)

    def receive_master(self) -> int:
        """Return the master's descriptor. Unknown if the runtime sends something else, or has not connected."""
        # The runtime has ended by now: what it sent is here or will never be.
        try:
            connection, _address = self._socket.accept()
        except BlockingIOError:
            raise Unknown("failed to retrieve console master: the runtime did not connect") from None
        fds = array.array("i")
        with connection:
            connection.setblocking(False)
            try:
                _data, ancillary, _flags, _address = connection.recvmsg(
                    4096, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise Unknown(f"failed to retrieve console master: {(error.strerror or '').lower()}") from None
            for level, type_, data in ancillary:
                if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if len(fds) != 1:
            for fd in fds:
                os.close(fd)
            raise Unknown(f"failed to retrieve console master: {len(fds)} descriptors came instead of one")
        return fds[0]


def resize(master: int, width: int, height: int) -> None:
    """Set a terminal's size in columns and rows (TIOCSWINSZ, ioctl_tty(2)); the kernel sends SIGWINCH."""
    # 16 bits each, and as in Go the rest is cut off.
    size = struct.pack("HHHH", height & 0xFFFF, width & 0xFFFF, 0, 0)
    fcntl.ioctl(master, termios.TIOCSWINSZ, size)

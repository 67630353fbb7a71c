"""The terminals of a foreground call: the one of whoever calls, and the container's own."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios

from wherry.errors import Unknown
from wherry.linux.process import peer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Indices into what tcgetattr returns.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

# What cfmakeraw(3) takes away; output is still processed, since the container's terminal leaves that to this one.
_INPUT = (
    termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
    | termios.ICRNL | termios.IXON
)  # fmt: skip
_LOCAL = termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN

#: struct winsize.
_SIZE = struct.Struct("HHHH")

#: A master comes with its name.
_NAME_SIZE = 4096


class HostTerminal:
    """The terminal of whoever calls, by whichever of the standard streams is one, or as the controlling one."""

    def __init__(self) -> None:
        """OSError, in the end about /dev/tty, if there is none."""
        self._own = -1
        for fd in (2, 1, 0):
            if os.isatty(fd):
                self._fd = fd
                break
        else:
            self._fd = self._own = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
        self._before: list[Any] = termios.tcgetattr(self._fd)

    def make_raw(self) -> None:
        """Pass every key on as it is pressed, until `close`."""
        raw: list[Any] = [*self._before[:_CC], list(self._before[_CC])]
        raw[_IFLAG] &= ~_INPUT
        raw[_LFLAG] &= ~_LOCAL
        raw[_OFLAG] |= termios.OPOST
        raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSANOW, raw)

    def size(self) -> dict[str, int]:
        """Return its size as the OCI specification's `consoleSize`. OSError if it was hung up."""
        rows, columns, _x, _y = _SIZE.unpack(fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(_SIZE.size)))
        return {"height": rows, "width": columns}

    def resize(self, master: int) -> None:
        """Give another terminal the size of this one. tty_ioctl(4)."""
        try:
            fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(self._fd, termios.TIOCGWINSZ, bytes(_SIZE.size)))
        except OSError:
            return  # one of them has just been closed

    def close(self) -> None:
        """Leave the terminal as it was."""
        try:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        except termios.error:
            pass  # it was hung up
        if self._own >= 0:
            os.close(self._own)


class ConsoleSocket:
    """Where a container's process sends its terminal's master to, within this process."""

    def __init__(self) -> None:
        # A name that the kernel picks, in no file system: unix(7), "Autobind feature".
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind("")
        self._listener.listen(16)

    @property
    def path(self) -> str:
        """What to connect to."""
        name: bytes = self._listener.getsockname()
        return os.fsdecode(name)

    def receive(self, channel: int = -1) -> int:
        """Return the master that was sent, or that is sent before there is anything to read on a channel: then the
        process has other news. Unknown if none was."""
        self._listener.settimeout(0)
        while True:
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                raise Unknown("the container's process has sent no terminal") from None
            with connection:
                # The name can be guessed by whoever shares the network namespace; the connection is made by us.
                if peer(connection)[0] != os.getpid():
                    continue
                if channel >= 0:
                    poll = select.poll()
                    for fd in (connection.fileno(), channel):
                        poll.register(fd, select.POLLIN)
                    poll.poll()
                connection.settimeout(0)
                try:
                    _data, fds, _flags, _address = socket.recv_fds(connection, _NAME_SIZE, 1)
                except BlockingIOError:
                    fds = []
            if not fds:
                raise Unknown("the container's process has sent no terminal")
            os.set_inheritable(fds[0], False)
            return fds[0]

    def close(self) -> None:
        self._listener.close()


def leave_newlines(master: int) -> None:
    """Have a terminal write a newline as it is: the one that shows it makes the line's beginning of it."""
    state = termios.tcgetattr(master)
    state[_OFLAG] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, state)

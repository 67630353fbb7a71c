"""What a runtime and the process that becomes a container's say to each other: packets of a byte and a text.

unix(7), SOCK_SEQPACKET: a message arrives whole or not at all, and the end of either is seen by the other.
"""

from __future__ import annotations

import _socket
import os

from wherry.errors import Unknown

#: From the runtime: go on, id maps and limits are yours, or hooks have run.
GO = b"G"
#: From the runtime: you are in your cgroup. Joining one may take the kernel some milliseconds.
JOINED = b"J"
#: To the runtime: I could not get into my cgroup by myself; answer with JOINED.
OUTSIDE = b"O"
#: To the runtime: run the hooks that come with the mounts, and answer with GO.
HOOKS = b"H"
#: To the runtime: the pid of the container's process, from the stage that made it.
PID = b"P"
#: To the runtime: a descriptor of mine is the listener of the seccomp filter; answer with GO.
LISTENER = b"L"
#: To the runtime: all is done but the program itself.
READY = b"R"
#: To the runtime: why there will be no container.
ERROR = b"E"

#: Errors name paths, which have up to 4096 bytes.
_SIZE = 32768


class ChannelClosed(Exception):
    """The other end has gone."""


class Channel:
    """One end."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def send(self, kind: bytes, text: str = "") -> None:
        """Send a message. ChannelClosed if nobody is there to read it."""
        try:
            os.write(self.fd, kind + text.encode(errors="surrogateescape")[: _SIZE - 1])
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosed from None

    def receive(self) -> tuple[bytes, str]:
        """Return the next message's kind and text. ChannelClosed at the end, Unknown for an error that was sent."""
        try:
            data = os.read(self.fd, _SIZE)
        except ConnectionResetError:
            # It ended before it had read all that it was sent, which is told first, and once; its last words follow.
            data = os.read(self.fd, _SIZE)
        if not data:
            raise ChannelClosed
        text = data[1:].decode(errors="surrogateescape")
        if data[:1] == ERROR:
            raise Unknown(text)
        return data[:1], text

    def expect(self, kind: bytes) -> str:
        """Return the text of the next message, which must be of a kind."""
        found, text = self.receive()
        if found != kind:
            raise Unknown(f"a message {found!r} came instead of {kind!r}")
        return text

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def channels() -> tuple[Channel, Channel]:
    """Return two connected ends, both closed on exec."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(ours.detach()), Channel(theirs.detach())

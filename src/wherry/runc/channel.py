"""What a runtime and the process that becomes a container's say to each other: packets of a byte and a text.

unix(7), SOCK_SEQPACKET: a message arrives whole or not at all, and the end of either is seen by the other.
"""

from __future__ import annotations

import _socket
import os
from struct import Struct

from wherry.errors import Unknown

#: From the runtime: go on, id maps and limits are yours, or hooks have run.
GO = b"G"
#: From the runtime: your cgroup has its limits, and if you can't get in by yourself, you are in it.
JOINED = b"J"
#: To the runtime: the kernel refuses to let me into my cgroup; answer with GO when I am there.
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

#: struct ucred: pid, uid, gid.
_CREDENTIALS = Struct("3i")
#: struct timeval
_TIME = Struct("2l")

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
        return _parse(data)

    def ask_senders(self) -> None:
        """Have the kernel tell with each message whose it is (SO_PASSCRED, unix(7))."""
        sock = _socket.socket(fileno=os.dup(self.fd))
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_PASSCRED, 1)
        finally:
            sock.close()

    def limit_wait(self, seconds: int) -> None:
        """Have reads of this end fail with EAGAIN after a time (SO_RCVTIMEO, socket(7))."""
        sock = _socket.socket(fileno=os.dup(self.fd))
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, _TIME.pack(seconds, 0))
        finally:
            sock.close()

    def receive_from(self) -> tuple[bytes, str, int]:
        """As `receive`, with the sender's pid. After `ask_senders`."""
        sock = _socket.socket(fileno=os.dup(self.fd))
        try:
            # No room for descriptors: whoever sends one keeps it.
            room = _socket.CMSG_LEN(_CREDENTIALS.size)
            try:
                data, ancillary, _flags, _address = sock.recvmsg(_SIZE, room)
            except ConnectionResetError:
                data, ancillary, _flags, _address = sock.recvmsg(_SIZE, room)
        finally:
            sock.close()
        kind, text = _parse(data)
        for level, type, content in ancillary:
            if (level, type) == (_socket.SOL_SOCKET, _socket.SCM_CREDENTIALS):
                return kind, text, int(_CREDENTIALS.unpack(content)[0])
        return kind, text, 0

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


def _parse(data: bytes) -> tuple[bytes, str]:
    if not data:
        raise ChannelClosed
    text = data[1:].decode(errors="surrogateescape")
    if data[:1] == ERROR:
        raise Unknown(text)
    return data[:1], text


def channels() -> tuple[Channel, Channel]:
    """Return two connected ends, both closed on exec."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return Channel(ours.detach()), Channel(theirs.detach())

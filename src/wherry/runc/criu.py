"""CRIU as a service of one request: `criu swrk`, protobuf messages over a socket pair. images/rpc.proto of CRIU.

The few messages are encoded here: protobuf's library would take longer to import than most checkpoints take.
"""

from __future__ import annotations

import os
import signal
import socket

from wherry.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    #: A value of a message's field, by what it is in rpc.proto: numbers, text, a message, or several of them.
    Value = bool | int | str | Mapping[int, "Value"] | Sequence["Value"]
    Message = Mapping[int, "Value"]
    #: Called with the notification's name, the pid that it is about, and a descriptor that came with it or -1.
    Notified = Callable[[str, int, int], None]

# enum criu_req_type
DUMP, RESTORE, PRE_DUMP, _NOTIFY = 1, 2, 4, 6
_TYPES = {DUMP: "DUMP", RESTORE: "RESTORE", PRE_DUMP: "PRE_DUMP", _NOTIFY: "NOTIFY"}

# message criu_req, criu_resp, criu_notify, criu_restore_resp
_REQUEST_TYPE, _REQUEST_OPTIONS, _REQUEST_NOTIFY_SUCCESS = 1, 2, 3
_RESPONSE_TYPE, _RESPONSE_SUCCESS, _RESPONSE_RESTORE, _RESPONSE_NOTIFY, _RESPONSE_ERRNO = 1, 2, 4, 5, 7
_NOTIFY_SCRIPT, _NOTIFY_PID = 1, 2
_RESTORE_PID = 1

#: In criu's process; what follows are the descriptors that a restored process inherits.
SOCKET = 3
FIRST_INHERITED = 4

_MAX_PACKET = 1 << 20

# Protobuf's wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(message: Message) -> bytes:
    """Return a message's wire form. Negative numbers are int32 or int64 fields."""
    data = bytearray()
    for field, value in message.items():
        several = value if isinstance(value, list | tuple) else (value,)
        for one in several:
            if isinstance(one, int):
                data += _varint(field << 3 | _VARINT) + _varint(one & (1 << 64) - 1)
            else:
                content = one.encode(errors="surrogateescape") if isinstance(one, str) else encode(one)
                data += _varint(field << 3 | _BYTES) + _varint(len(content)) + content
    return bytes(data)


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def decode(data: bytes) -> dict[int, int | bytes]:
    """Return a message's fields by number, the last of each; those of fixed size are left out. ValueError."""
    fields: dict[int, int | bytes] = {}
    rest = iter(data)
    try:
        for first in rest:
            tag = _read_varint(first, rest)
            field, type = tag >> 3, tag & 7
            if type == _VARINT:
                fields[field] = _read_varint(next(rest), rest)
            elif type in (_BYTES, _FIXED64, _FIXED32):
                size = _read_varint(next(rest), rest) if type == _BYTES else 8 if type == _FIXED64 else 4
                content = bytes(next(rest) for _ in range(size))
                if type == _BYTES:
                    fields[field] = content
            else:
                raise ValueError(f"wire type {type}")
    except (StopIteration, RuntimeError):
        raise ValueError("the message ends in the middle") from None
    return fields


def _read_varint(byte: int, rest: Iterator[int]) -> int:
    number = shift = 0
    while True:
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return number
        shift += 7
        byte = next(rest)


class Criu:
    """A criu process for one request. A context manager: it is ended with it."""

    def __init__(self, program: str, inherited: Sequence[int] = ()) -> None:
        """`inherited` are descriptors for a restored process, in criu's own process from FIRST_INHERITED on.

        Unknown if the program cannot be run.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        # Out of the way of the numbers that they get, before any of them is taken.
        lifted = [_lift(fd) for fd in (theirs.fileno(), *inherited)]
        actions = [(os.POSIX_SPAWN_DUP2, fd, SOCKET + index) for index, fd in enumerate(lifted)]
        try:
            self.pid = os.posix_spawnp(
                program,
                [program, "swrk", str(SOCKET)],
                os.environ,
                file_actions=actions,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            self._socket.close()
            if isinstance(error, FileNotFoundError) and "/" not in program:
                raise Unknown(f'exec: "{program}": executable file not found in $PATH') from None
            raise Unknown(f"fork/exec {program}: {(error.strerror or '').lower()}") from None
        finally:
            theirs.close()
            for fd in lifted:
                os.close(fd)

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()  # upon which it ends
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            return

    def request(self, type: int, options: Message, log: str, notified: Notified) -> int:
        """Have a request served; returns the pid of what a RESTORE restored, else 0. Unknown, naming the log."""
        self._send({_REQUEST_TYPE: type, _REQUEST_OPTIONS: options})
        while True:
            response, fd = self._receive(log)
            kind, success = response.get(_RESPONSE_TYPE), response.get(_RESPONSE_SUCCESS)
            if not success:
                number = _number(response, _RESPONSE_ERRNO)
                raise Unknown(f"criu failed: type {_TYPES.get(type)} errno {number}\nlog file: {log}")
            if kind == _NOTIFY:
                self._notify(response, fd, notified)
                continue
            restored = decode(_bytes(response, _RESPONSE_RESTORE))
            return _number(restored, _RESTORE_PID)

    def _notify(self, response: dict[int, int | bytes], fd: int, notified: Notified) -> None:
        about = decode(_bytes(response, _RESPONSE_NOTIFY))
        try:
            notified(_bytes(about, _NOTIFY_SCRIPT).decode(), _number(about, _NOTIFY_PID), fd)
        finally:
            if fd >= 0:
                os.close(fd)
        self._send({_REQUEST_TYPE: _NOTIFY, _REQUEST_NOTIFY_SUCCESS: True})

    def _send(self, message: Message) -> None:
        try:
            self._socket.send(encode(message))
        except (BrokenPipeError, ConnectionResetError):
            raise Unknown("criu has ended before it was asked for anything") from None

    def _receive(self, log: str) -> tuple[dict[int, int | bytes], int]:
        try:
            data, fds, _flags, _address = socket.recv_fds(self._socket, _MAX_PACKET, 1)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            raise Unknown(f"criu has ended without an answer\nlog file: {log}")
        for fd in fds:
            os.set_inheritable(fd, False)
        return decode(data), fds[0] if fds else -1


def _lift(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SOCKET + 64)


def _bytes(fields: Mapping[int, int | bytes], field: int) -> bytes:
    value = fields.get(field, b"")
    return value if isinstance(value, bytes) else b""


def _number(fields: Mapping[int, int | bytes], field: int) -> int:
    value = fields.get(field, 0)
    return value if isinstance(value, int) else 0

"""Calls to systemd over D-Bus: its messages are jeepney's, the socket is ours.

D-Bus specification, "Authentication Protocol" and "Message Bus Messages"; org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import os
import select
import socket
import time

from wherry.errors import DeadlineExceeded, Error, Unavailable, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SYSTEMD = "org.freedesktop.systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
_PATH = "/org/freedesktop/systemd1"

#: What systemd needs for a unit on a machine that has much else to do.
_SECONDS = 30.0
_CHUNK = 1 << 16
#: Waits for a first answer, and then it is asked again.
_WAKE_SECONDS = (0.01, 0.05, 0.2, 1.0, 5.0)
#: A reply to authentication is a short line.
_MAX_LINE = 4096


class BusError(Error):
    """An error that the other side answered with; `name` is D-Bus's for it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name


class Bus:
    """A connection to systemd's manager, through the bus or to systemd itself."""

    def __init__(self, address: str, *, bus: bool) -> None:
        """Connect to a unix socket; `bus` tells that a bus listens there, not systemd itself. OSError, Unavailable."""
        from jeepney import Parser

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._parser = Parser()
        self._serial = 0
        self._removed: dict[str, str] = {}
        self._deadline = time.monotonic() + _SECONDS
        try:
            self._socket.connect(address)
            self._authenticate()
            if bus:
                self._message("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
                rule = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
                self._message(
                    "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "AddMatch", "s", (rule,)
                )
            else:
                self._wake()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def call(self, method: str, signature: str = "", arguments: tuple[Any, ...] = ()) -> Sequence[Any]:
        """Call a method of the manager and return what it answers. BusError, DeadlineExceeded, Unavailable."""
        self._deadline = time.monotonic() + _SECONDS
        return self._message(SYSTEMD, _PATH, MANAGER, method, signature, arguments)

    def manager_property(self, name: str) -> Any:
        """Return a property of the manager. BusError, DeadlineExceeded, Unavailable."""
        self._deadline = time.monotonic() + _SECONDS
        interface = "org.freedesktop.DBus.Properties"
        (_signature, value), *_ = self._message(SYSTEMD, _PATH, interface, "Get", "ss", (MANAGER, name))
        return value

    def run_job(self, method: str, signature: str, arguments: tuple[Any, ...]) -> str:
        """Call a method that begins a job, and return that job's result ("done") when it is at its end.

        BusError, DeadlineExceeded, Unavailable.
        """
        # Before it: a client that did not ask is told of no job.
        self.call("Subscribe")
        self._removed.clear()
        job = self.call(method, signature, arguments)[0]
        while job not in self._removed:
            self._dispatch(self._receive())
        return self._removed[job]

    def _authenticate(self) -> None:
        """Let the other side take who this is from the socket: in a user namespace our own number is another one."""
        # A NUL comes before all.
        self._socket.sendall(b"\0AUTH EXTERNAL\r\n")
        answer = self._line()
        if answer.startswith(b"DATA"):
            self._socket.sendall(b"DATA\r\n")
            answer = self._line()
        if not answer.startswith(b"OK"):
            raise Unavailable(f"D-Bus: authentication refused: {answer.decode(errors='replace').strip()}")
        self._socket.sendall(b"BEGIN\r\n")

    def _wake(self) -> None:
        """Get systemd to answer: it leaves a message that came together with BEGIN until there is more to read."""
        from jeepney import DBusAddress, new_method_call

        address = DBusAddress(_PATH, SYSTEMD, "org.freedesktop.DBus.Peer")
        for seconds in _WAKE_SECONDS:
            self._serial += 1
            self._socket.sendall(new_method_call(address, "Ping").serialise(serial=self._serial))
            if self._readable(seconds):
                return

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            self._wait()
            data = self._socket.recv(1)
            if not data or len(line) > _MAX_LINE:
                raise Unavailable("D-Bus: the connection ended")
            line += data
        return line

    def _message(
        self, name: str, path: str, interface: str, method: str, signature: str = "", arguments: tuple[Any, ...] = ()
    ) -> Sequence[Any]:
        from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call

        message = new_method_call(DBusAddress(path, name, interface), method, signature or None, arguments)
        self._serial += 1
        serial = self._serial
        self._socket.sendall(message.serialise(serial=serial))
        while True:
            reply = self._receive()
            if reply.header.fields.get(HeaderFields.reply_serial) != serial:
                self._dispatch(reply)
            elif reply.header.message_type is MessageType.error:
                words = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
                raise BusError(reply.header.fields.get(HeaderFields.error_name, ""), words)
            else:
                return tuple(reply.body)

    def _dispatch(self, message: Any) -> None:
        from jeepney import HeaderFields, MessageType

        if (
            message.header.message_type is MessageType.signal
            and message.header.fields.get(HeaderFields.interface) == MANAGER
            and message.header.fields.get(HeaderFields.member) == "JobRemoved"
        ):
            _number, job, _unit, result = message.body
            self._removed[job] = result

    def _receive(self) -> Any:
        while (message := self._parser.get_next_message()) is None:
            self._wait()
            data = self._socket.recv(_CHUNK)
            if not data:
                raise Unavailable("D-Bus: the connection ended")
            self._parser.add_data(data)
        return message

    def _wait(self) -> None:
        if not self._readable(max(0.0, self._deadline - time.monotonic())):
            raise DeadlineExceeded("D-Bus: systemd does not answer")

    def _readable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


def connect(*, user: bool) -> Bus:
    """Connect to the machine's systemd, or to this user's. Unknown with the reason if there is no way to it."""
    if user:
        run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
        ways = [
            (_socket_path(os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")) or f"{run}/bus", True),
            (f"{run}/systemd/private", False),
        ]
    else:
        ways = [
            (_socket_path(os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", "")) or "/run/dbus/system_bus_socket", True),
            ("/run/systemd/private", False),
        ]
    reason = ""
    for address, bus in ways:
        try:
            return Bus(address, bus=bus)
        except OSError as error:
            reason = reason or f"dial unix {address}: connect: {(error.strerror or '').lower()}"
        except Error as error:
            reason = reason or error.message
        except ImportError as error:
            raise Unknown(f"the systemd cgroup driver needs the package jeepney: {error}") from None
    raise Unknown(f"unable to connect to dbus: {reason}")


def _socket_path(addresses: str) -> str:
    """D-Bus specification, "Server Addresses": the first one that is a unix socket's."""
    for address in addresses.split(";"):
        transport, _, keys = address.partition(":")
        if transport != "unix":
            continue
        for pair in keys.split(","):
            key, _, value = pair.partition("=")
            if key in ("path", "abstract"):
                from urllib.parse import unquote

                return ("\0" if key == "abstract" else "") + unquote(value)
    return ""

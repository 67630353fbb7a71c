"""systemd's notification of a service that is a container, in both ways as runc has it: sd_notify(3).

The container gets a socket of its own. Of what comes there only READY= is handed on, so that nothing in the container
speaks for the whole service.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import time

from wherry.errors import NotFound, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.log import Log
    from wherry.runc.container import Container

_VARIABLE = "NOTIFY_SOCKET"
#: In the container's state directory, and what it is in the container.
DIRECTORY = "notify"
_NAME = "notify.sock"
_INSIDE = "/run/notify"

_MOST = 4096
#: Seconds for the service manager to have read what it was sent.
_BARRIER = 30.0


def environment() -> list[str]:
    """Return what is added to the environment of the container's process."""
    return [f"{_VARIABLE}={_INSIDE}/{_NAME}"]


def mount(directory: str) -> dict[str, object]:
    """Return the mount, as of a specification, by which the container has the socket of a state directory."""
    return {
        "destination": _INSIDE,
        "type": "bind",
        "source": os.path.join(directory, DIRECTORY),
        "options": ["bind", "nosuid", "noexec", "nodev", "ro"],
    }


class Notification:
    """The socket of one container, until it is ready."""

    def __init__(self, directory: str, address: str) -> None:
        """Make it in a state directory that was made for it, for the manager at an address. Unknown."""
        self._manager = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            # A leading @ stands for the zero byte of an abstract socket's name.
            self._manager.connect("\0" + address[1:] if address.startswith("@") else address)
            self._bind(os.path.join(directory, DIRECTORY))
        except OSError as error:
            self.close()
            raise Unknown(f"{_VARIABLE}: {(error.strerror or '').lower()}") from None

    def _bind(self, directory: str) -> None:
        # By its descriptor: a socket's path has 107 bytes at most.
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/self/fd/{fd}/{_NAME}"
            self._socket.bind(path)
            os.chmod(path, 0o777)  # noqa: S103  # for any user of the container's
        finally:
            os.close(fd)

    def close(self) -> None:
        self._manager.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, pid: int) -> bool:
        """Read a message; if it says so, tell the manager that the service is ready, and its main process. OSError."""
        ready = [line for line in self._socket.recv(_MOST).split(b"\n") if line.startswith(b"READY=")]
        if ready:
            self._manager.send(ready[0] + b"\n")
            self._manager.send(f"MAINPID={pid}\n".encode())
        return bool(ready)

    def wait(self, container: Container, log: Log) -> None:
        """Return when the container is ready, or its process has ended. OSError."""
        try:
            pidfd = container.open_init()
        except NotFound:
            return
        try:
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            while self._socket.fileno() in dict(poll.poll()):
                if self.receive(container.state_record.pid):
                    self._wait_for_manager(log)
                    return
        finally:
            os.close(pidfd)

    def _wait_for_manager(self, log: Log) -> None:
        """Return when the manager has read all: it asks who sent it, and that has to be there still (BARRIER=1)."""
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", write))]
            self._manager.sendmsg([b"BARRIER=1"], rights)
            os.close(write)
            write = -1
            poll = select.poll()
            poll.register(read, 0)
            deadline = time.monotonic() + _BARRIER
            while (left := deadline - time.monotonic()) > 0:
                if poll.poll(left * 1000):
                    return
            log.warning("the service manager knows no BARRIER=1")
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)

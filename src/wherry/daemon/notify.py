"""What the service manager is told, if there is one: sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Send lines like "READY=1" to the socket in NOTIFY_SOCKET. A manager that does not listen is logged only."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            # A leading @ stands for the zero byte of an abstract socket's name.
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
    except OSError as error:
        log.warning("the service manager does not listen", extra={"socket": address, "error": error.strerror})

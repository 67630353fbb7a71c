"""The agent that answers for system calls which a seccomp filter asks about: it is sent the filter's listener.

OCI runtime specification, config-linux.md, "The Container Process State"; seccomp_unotify(2).
"""

from __future__ import annotations

import array
import ctypes
import json
import os
import socket

from wherry.errors import Unknown
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_SYS_PIDFD_GETFD = 438  # the same on every architecture


def send_listener(pidfd: int, number: int, seccomp: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Take a descriptor of a process and send it to the agent that the profile names, with the container's state.

    Unknown if the agent cannot be reached.
    """
    path = seccomp.get("listenerPath") or ""
    try:
        listener = check(libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), pidfd, number, 0))
    except OSError as error:
        raise Unknown(f"unable to get the seccomp listener: {(error.strerror or '').lower()}") from None
    document = {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": state["pid"],
        "metadata": seccomp.get("listenerMetadata") or "",
        "state": dict(state),
    }
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect(path)
            rights = array.array("i", [listener])
            connection.sendmsg([json.dumps(document).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    except OSError as error:
        raise Unknown(f"unable to reach the seccomp agent at {path}: {(error.strerror or '').lower()}") from None
    finally:
        os.close(listener)

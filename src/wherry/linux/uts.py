"""The names of a UTS namespace. sethostname(2), setdomainname(2)."""

from __future__ import annotations

import ctypes
import os
import socket

from wherry.linux.libc import check, libc


def set_host_name(name: str) -> None:
    """Set the host name of this process's UTS namespace. Raises OSError (EINVAL: over 64 bytes)."""
    socket.sethostname(name)


def set_domain_name(name: str) -> None:
    """Set the NIS domain name of this process's UTS namespace. Raises OSError (EINVAL: over 64 bytes)."""
    data = os.fsencode(name)
    check(libc.setdomainname(ctypes.c_char_p(data), ctypes.c_size_t(len(data))))

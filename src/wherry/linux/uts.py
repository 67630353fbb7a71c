"""The names of a UTS namespace. sethostname(2), setdomainname(2)."""

from __future__ import annotations

import _socket
import os

from wherry.linux import foreign
from wherry.linux.libc import check, libc


def set_host_name(name: str) -> None:
    """Set the host name of this process's UTS namespace. Raises OSError (EINVAL: over 64 bytes)."""
    _socket.sethostname(name)


def set_domain_name(name: str) -> None:
    """Set the NIS domain name of this process's UTS namespace. Raises OSError (EINVAL: over 64 bytes)."""
    data = os.fsencode(name)
    check(libc.setdomainname(foreign.c_char_p(data), foreign.c_size_t(len(data))))

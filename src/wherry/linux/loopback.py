"""The loopback interface of a network namespace. netdevice(7)."""

from __future__ import annotations

import _socket
import fcntl
from struct import Struct

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

#: struct ifreq: a name, flags in the union behind it.
_IFREQ = Struct("16sh22x")


def bring_up_loopback() -> None:
    """Bring up ``lo`` in this process's network namespace. Raises OSError (EPERM without CAP_NET_ADMIN over it)."""
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0))
        name, flags = _IFREQ.unpack(request)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))
    finally:
        sock.close()

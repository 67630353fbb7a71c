"""The paths of unix sockets: how long the kernel lets them be."""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument

#: sun_path of sockaddr_un holds 108 bytes, the closing zero among them; unix(7).
MAX_LENGTH = 107


def check(path: str) -> None:
    """Raise InvalidArgument, naming the limit, if no socket can have this path."""
    length = len(os.fsencode(path))
    if length > MAX_LENGTH:
        raise InvalidArgument(
            f"the socket path {path} has {length} bytes, and the kernel takes {MAX_LENGTH}: choose a shorter --address"
        )

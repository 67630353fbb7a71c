"""Session keyrings. keyrings(7), keyctl(2)."""

from __future__ import annotations

import os

from wherry.linux import foreign
from wherry.linux.libc import check, libc
from wherry.linux.syscalls import KEYCTL

_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5
_KEYCTL_DESCRIBE = 6

#: Whoever has the key's user id may find it (KEY_USR_SEARCH, <keyutils.h>).
USER_SEARCH = 0x00080000

_SIZE = 4096


def join_session_keyring(name: str) -> int:
    """Give this process a new session keyring, or one of that name that it may join, and return its serial number.

    Raises OSError: ENOSYS without keyrings in the kernel, EDQUOT for a user that has too many.
    """
    return _keyctl(_KEYCTL_JOIN_SESSION_KEYRING, foreign.c_char_p(os.fsencode(name)))


def set_permissions(serial: int, mask: int) -> None:
    """Add permissions to those that a key has. Raises OSError."""
    buffer = foreign.create_string_buffer(_SIZE)
    _keyctl(_KEYCTL_DESCRIBE, foreign.c_int(serial), buffer, foreign.c_size_t(_SIZE))
    # type;uid;gid;permissions;description
    permissions = int(buffer.value.split(b";", 4)[3], 16)
    _keyctl(_KEYCTL_SETPERM, foreign.c_int(serial), foreign.c_uint(permissions | mask))


def _keyctl(operation: int, *arguments: object) -> int:
    return int(check(libc.syscall(foreign.c_long(KEYCTL), foreign.c_int(operation), *arguments)))

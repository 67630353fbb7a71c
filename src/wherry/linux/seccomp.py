"""Loading a seccomp filter. seccomp(2)."""

from __future__ import annotations

import errno
import os

from wherry.linux import foreign
from wherry.linux.libc import check, libc
from wherry.linux.syscalls import SECCOMP

# <linux/seccomp.h>
SECCOMP_FILTER_FLAG_TSYNC = 1
SECCOMP_FILTER_FLAG_LOG = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
SECCOMP_FILTER_FLAG_TSYNC_ESRCH = 16
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV = 32

_SECCOMP_SET_MODE_FILTER = 1

#: sizeof(struct sock_filter)
INSTRUCTION_SIZE = 8
#: BPF_MAXINSNS
MAX_INSTRUCTIONS = 4096


class _Program(foreign.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", foreign.c_ushort), ("filter", foreign.c_char_p))


def load_filter(program: bytes, flags: int) -> int:
    """Subject this thread, and what it executes and forks, to a filter. Returns the listener's descriptor, or 0.

    `program` is an array of struct sock_filter, `flags` are SECCOMP_FILTER_FLAG_… The listener, which only
    SECCOMP_FILTER_FLAG_NEW_LISTENER makes, is closed on exec. Raises OSError: EINVAL for a program that is none or a
    flag that the kernel does not know, EACCES without no_new_privs and CAP_SYS_ADMIN, EBUSY if there is a listener
    already, ESRCH if a thread cannot be synchronised.
    """
    count, rest = divmod(len(program), INSTRUCTION_SIZE)
    if rest or not 0 < count <= MAX_INSTRUCTIONS:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    argument = _Program(count, program)
    result = check(
        libc.syscall(
            foreign.c_long(SECCOMP),
            foreign.c_uint(_SECCOMP_SET_MODE_FILTER),
            foreign.c_uint(flags),
            foreign.byref(argument),
        )
    )
    if result and not flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
        # The id of a thread that has a filter of its own; this one has not got the new one either.
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
    return result

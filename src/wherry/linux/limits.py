"""Resource limits of a process. getrlimit(2)."""

from __future__ import annotations

from struct import Struct

from wherry.errors import InvalidArgument
from wherry.linux import foreign
from wherry.linux.libc import check, libc

#: Numbers by name, <asm-generic/resource.h>: the same on all architectures but MIPS, Alpha and SPARC.
RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

INFINITY = (1 << 64) - 1

#: struct rlimit: soft, hard.
_RLIMIT = Struct("QQ")


def set_limit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a limit of a process, 0 being this one, prlimit(2). The units are the resource's, INFINITY is no limit.

    InvalidArgument for numbers that no limit can be; OSError: EINVAL if soft is above hard, EPERM above what the
    process has without CAP_SYS_RESOURCE, ESRCH.
    """
    if not (0 <= soft <= INFINITY and 0 <= hard <= INFINITY):
        raise InvalidArgument(f"resource limits {soft} and {hard}: they are between 0 and {INFINITY}")
    wanted = _RLIMIT.pack(soft, hard)
    check(libc.prlimit(foreign.c_int(pid), foreign.c_int(resource), foreign.c_char_p(wanted), None))


def get_limit(resource: int) -> tuple[int, int]:
    """Return the soft and the hard limit of this process, prlimit(2)."""
    found = foreign.create_string_buffer(_RLIMIT.size)
    check(libc.prlimit(foreign.c_int(0), foreign.c_int(resource), None, found))
    soft, hard = _RLIMIT.unpack(found.raw)
    return soft, hard

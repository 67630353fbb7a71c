"""The execution domain of a process. personality(2)."""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.linux import foreign
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: PER_LINUX and PER_LINUX32 of <sys/personality.h>, under OCI's names (config-linux.md, personality).
DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}


def set_personality(domain: str, flags: Iterable[str]) -> None:
    """Set this process's execution domain. InvalidArgument for one that there is not; OSError.

    The specification defines no flags yet, so that any is InvalidArgument.
    """
    if domain not in DOMAINS:
        raise InvalidArgument(f"invalid personality domain {domain!r}: it is one of {', '.join(DOMAINS)}")
    for flag in flags:
        raise InvalidArgument(f"unsupported personality flag {flag!r}")
    check(libc.personality(foreign.c_ulong(DOMAINS[domain])))

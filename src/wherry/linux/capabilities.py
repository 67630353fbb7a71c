"""The five capability sets of a process, as masks. capabilities(7), capget(2), prctl(2)."""

from __future__ import annotations

from struct import Struct

from wherry.linux import foreign
from wherry.linux.capability_names import CAPABILITIES
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CAPABILITIES",
    "drop_bounding",
    "keep_capabilities",
    "last_capability",
    "mask",
    "set_ambient",
    "set_capabilities",
]

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_VERSION_3 = 0x20080522
#: struct __user_cap_header_struct: version, pid (0: the caller).
_HEADER = Struct("Ii").pack(_VERSION_3, 0)
#: struct __user_cap_data_struct, twice: effective, permitted, inheritable of the lower 32 and of the upper.
_DATA = Struct("6I")

#: A mask has no room for more.
_MOST = 64

_last = -1


def last_capability() -> int:
    """Return the number of the last capability that the running kernel knows. Read once. OSError without /proc."""
    global _last
    if _last < 0:
        with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
            _last = int(file.read())
    return _last


def mask(names: Iterable[str]) -> tuple[int, list[str]]:
    """Return a set of ``CAP_…`` names as a mask, and those of them that neither this table nor the kernel knows."""
    last = last_capability()
    found = 0
    unknown: list[str] = []
    for name in names:
        number = CAPABILITIES.get(name, _MOST)
        if number <= last:
            found |= 1 << number
        elif name not in unknown:
            unknown.append(name)
    return found, unknown


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's sets, capset(2). Raises OSError (EPERM for what it may not have)."""
    sets = effective, permitted, inheritable
    data = _DATA.pack(*(each & 0xFFFFFFFF for each in sets), *(each >> 32 for each in sets))
    check(libc.capset(foreign.c_char_p(_HEADER), foreign.c_char_p(data)))


def drop_bounding(keep: int) -> None:
    """Drop from the bounding set what is not in the mask, for good (PR_CAPBSET_DROP, prctl(2)).

    Raises OSError (EPERM without CAP_SETPCAP), but never for what is not in the set.
    """
    for number in range(last_capability() + 1):
        if keep >> number & 1:
            continue
        dropped = _prctl(_PR_CAPBSET_DROP, number)
        if dropped < 0 and _prctl(_PR_CAPBSET_READ, number) > 0:
            check(_prctl(_PR_CAPBSET_DROP, number))  # for its errno


def set_ambient(mask: int) -> None:
    """Make the ambient set what the mask says, as far as that is possible (PR_CAP_AMBIENT, prctl(2)).

    What is not both permitted and inheritable cannot be in it and is left out, as runc does.
    """
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def keep_capabilities(on: bool) -> None:
    """Keep the permitted set, or not, when the last user id of 0 is given up (PR_SET_KEEPCAPS, prctl(2)). OSError.

    EPERM if securebits forbid it.
    """
    check(_prctl(_PR_SET_KEEPCAPS, int(on)))


def _prctl(option: int, *arguments: int) -> int:
    values = [foreign.c_ulong(each) for each in (*arguments, 0, 0, 0, 0)[:4]]
    return int(libc.prctl(foreign.c_int(option), *values))

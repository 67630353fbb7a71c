"""KSM: equal pages of several processes kept once. Documentation/admin-guide/mm/ksm.rst of the kernel."""

from __future__ import annotations

import ctypes

from wherry.linux.libc import check, libc

_MADV_MERGEABLE = 12

_RUN = "/sys/kernel/mm/ksm/run"


def switch() -> str:
    """Return what the kernel's KSM is told to do: "0" nothing, "1" merge, "2" undo it; "" without KSM."""
    try:
        with open(_RUN) as file:
            return file.read().strip()
    except OSError:
        return ""


def make_mergeable() -> None:
    """Let the kernel merge this process's private writable memory with equal pages of others (madvise(2)).

    It holds for the mappings that are there now, and for those that a child inherits by fork, but not beyond exec:
    prctl(2)'s PR_SET_MEMORY_MERGE would pass it on to every container. OSError if the kernel has no KSM.
    """
    with open("/proc/self/maps") as file:
        lines = file.read().splitlines()
    for line in lines:
        addresses, permissions, *_rest = line.split()
        if permissions.startswith("rw") and permissions.endswith("p"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            length = ctypes.c_size_t(end - start)
            check(libc.madvise(ctypes.c_void_p(start), length, _MADV_MERGEABLE))

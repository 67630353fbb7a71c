"""Numbers of system calls that the C library has no function for, where they differ between architectures."""

from __future__ import annotations

import os

#: keyctl, ioprio_set, sched_setattr, seccomp, clone. From the kernel's tables; asm-generic's hold for all newer ones.
_GENERIC = (219, 30, 274, 277, 220)
_NUMBERS = {
    "x86_64": (250, 251, 314, 317, 56),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (271, 273, 355, 358, 120),
    "ppc64": (271, 273, 355, 358, 120),
    "s390x": (280, 282, 345, 348, 120),
}

_machine = os.uname().machine
#: -1, which every kernel answers ENOSYS to, on an architecture that is not in the table.
KEYCTL, IOPRIO_SET, SCHED_SETATTR, SECCOMP, CLONE = _NUMBERS.get(_machine, (-1, -1, -1, -1, -1))

"""What a filter does about system calls that are newer than its profile: it says that there are none.

A C library that meets ENOSYS falls back on an older call; one that meets a profile's EPERM fails. Nobody who wrote a
profile can have meant a call that did not exist then. So, as in runc, each program begins with a piece that answers
ENOSYS to every number above the highest that the profile names, by architecture. It is left out where what is not
named is allowed in some way.
"""

from __future__ import annotations

from struct import Struct

from wherry.runc import libseccomp as lib
from wherry.runc.seccomp_profile import architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.libseccomp import Library
    from wherry.runc.seccomp_profile import Profile

_ENOSYS = 38

_PERMISSIVE = (lib.ACT_ALLOW, lib.ACT_LOG)

# <linux/audit.h>. x32 is x86-64 to the kernel, but for a bit in the numbers; libseccomp's number for it is its own.
_AUDIT_ARCH_X86_64 = 0xC000003E
_SCMP_ARCH_X32 = 0x4000003E
_X32_SYSCALL_BIT = 0x40000000

#: struct sock_filter: code, jt, jf, k.
_INSTRUCTION = Struct("HBBI")

# <linux/bpf_common.h>
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP = 0x05  # BPF_JMP | BPF_JA
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_GREATER = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_JUMP_IF_SET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# Offsets in struct seccomp_data.
_NUMBER = 0
_ARCHITECTURE = 4

_Instruction = tuple[int, int, int, int]


def prologue(library: Library, profile: Profile) -> bytes:
    """Return the piece to put before a profile's program, perhaps none."""
    if profile.default & 0xFFFF0000 in (*_PERMISSIVE, lib.ACT_TRACE):
        return b""  # with TRACE it is for the tracer to know what there is
    numbers = highest_numbers(library, profile)
    x32 = numbers.pop(_SCMP_ARCH_X32, None)
    if x32 is not None:
        numbers.setdefault(_AUDIT_ARCH_X86_64, -1)
    sections: list[list[_Instruction]] = []
    for number in sorted(numbers):
        limit = numbers[number]
        body = _section_x86_64(limit, x32) if number == _AUDIT_ARCH_X86_64 else _section(limit)
        # To the next one, if it is not this architecture.
        sections.append([(_JUMP_IF_EQUAL, 0, len(body), number), *body])
    if not sections:
        return b""
    program = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for section in sections:
        program += section
    # A section's last jump leads to what follows the prologue.
    return b"".join(
        _INSTRUCTION.pack(code, yes, no, len(program) - index - 1 if code == _JUMP else k)
        for index, (code, yes, no, k) in enumerate(program)
    )


def _section(limit: int) -> list[_Instruction]:
    return [(_LOAD, 0, 0, _NUMBER), *_answer_above(limit)]


def _section_x86_64(limit: int, x32: int | None) -> list[_Instruction]:
    """Numbers of both kinds; those of a kind that the profile is not for are left to the program."""
    own = _answer_above(limit) if limit >= 0 else _LEAVE
    other = _answer_above(x32) if x32 is not None else _LEAVE
    return [(_LOAD, 0, 0, _NUMBER), (_JUMP_IF_SET, len(own), 0, _X32_SYSCALL_BIT), *own, *other]


_LEAVE: list[_Instruction] = [(_JUMP, 0, 0, 0)]


def _answer_above(limit: int) -> list[_Instruction]:
    return [(_JUMP_IF_GREATER, 0, 1, limit), (_RETURN, 0, 0, lib.ACT_ERRNO | _ENOSYS), *_LEAVE]


def highest_numbers(library: Library, profile: Profile) -> dict[int, int]:
    """Return the highest system call number that a profile names, by libseccomp's number of the architecture.

    The native one is among them whether or not the profile says so. One that no system call is named of is not.
    """
    architectures = {architecture(library, name) for name in profile.architectures}
    architectures.add(library.native_architecture)
    names = {rule.name for rule in profile.rules}
    found: dict[int, int] = {}
    for each in architectures:
        numbers = [number for name in names if (number := library.system_call_of(each, name)) is not None]
        if numbers:
            found[each] = max(numbers)
    return found

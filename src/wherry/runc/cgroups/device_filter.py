"""A policy of devices as a BPF program, which cgroup v2 has instead of a devices controller.

Documentation/admin-guide/cgroup-v2.rst, "Device controller"; Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import os
import sys
from struct import Struct

from wherry.linux import bpf
from wherry.runc.cgroups.devices import ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.cgroups.devices import DevicePolicy

# <linux/bpf.h>: BPF_DEVCG_ACC_* and BPF_DEVCG_DEV_*
_ACCESS = {"m": 1, "r": 2, "w": 4}
_TYPES = {"b": 1, "c": 2}

# struct bpf_cgroup_dev_ctx: u32 access_type (the access in its upper half), major, minor.
_ACCESS_TYPE, _MAJOR, _MINOR = 0, 4, 8

# Class, operation and source of the instructions that are used.
_LOAD_WORD = 0x61
_LOAD_NUMBER = 0x18  # of 64 bits: its upper half is in an instruction of its own
_AND_32 = 0x54
_SHIFT_RIGHT_32 = 0x74
_COPY_32 = 0xBC
_SET_32 = 0xB4
_SHIFT_LEFT = 0x67
_OR_REGISTER = 0x4F
_COPY = 0xBF
_JUMP_EQUAL_32 = 0x16
_JUMP_NOT_EQUAL_32 = 0x56
_JUMP_NOT_EQUAL_REGISTER_32 = 0x5E
_JUMP_NOT_EQUAL_REGISTER = 0x5D
_EXIT = 0x95

_JUMPS = (_JUMP_EQUAL_32, _JUMP_NOT_EQUAL_32, _JUMP_NOT_EQUAL_REGISTER_32, _JUMP_NOT_EQUAL_REGISTER)

# Which register has what; the context comes in R1, which is scratch later, and the answer goes out in R0.
_ANSWER, _SCRATCH, _OF_TYPE, _OF_ACCESS, _OF_MAJOR, _OF_MINOR, _OF_BOTH = range(7)

_INSTRUCTION = Struct("=BBhI")
_LITTLE = sys.byteorder == "little"

#: Code, register, source register, value; where a jump goes is known when the block is whole.
_Instruction = tuple[int, int, int, int]


def _packed(code: int, to: int, source: int = 0, value: int = 0, offset: int = 0) -> bytes:
    registers = to | source << 4 if _LITTLE else to << 4 | source
    return _INSTRUCTION.pack(code, registers, offset, value)


def compile_policy(policy: DevicePolicy) -> bytes:
    """Return the program's instructions. Its answer is 1 for what is allowed, 0 for what is not.

    A block for each exception: tests that leave it, then the answer. What can fail last is whether the numbers are the
    same, and then nothing new is known: the verifier's work grows with the number of blocks, not with its square.
    """
    parts = [
        _packed(_LOAD_WORD, _OF_TYPE, _SCRATCH, 0, _ACCESS_TYPE),
        _packed(_COPY_32, _OF_ACCESS, _OF_TYPE),
        _packed(_AND_32, _OF_TYPE, value=0xFFFF),
        _packed(_SHIFT_RIGHT_32, _OF_ACCESS, value=16),
        _packed(_LOAD_WORD, _OF_MAJOR, _SCRATCH, 0, _MAJOR),
        _packed(_LOAD_WORD, _OF_MINOR, _SCRATCH, 0, _MINOR),
        _packed(_COPY, _OF_BOTH, _OF_MAJOR),
        _packed(_SHIFT_LEFT, _OF_BOTH, value=32),
        _packed(_OR_REGISTER, _OF_BOTH, _OF_MINOR),
    ]
    for (kind, major, minor), access in sorted(policy.exceptions.items()):
        block: list[_Instruction] = [
            (_JUMP_NOT_EQUAL_32, _OF_TYPE, 0, _TYPES[kind]),
            (_COPY_32, _SCRATCH, _OF_ACCESS, 0),
            (_AND_32, _SCRATCH, 0, sum(_ACCESS[letter] for letter in access)),
        ]
        # All that is asked for has to be in what is allowed; any of it is enough to be in what is denied.
        if policy.allow:
            block.append((_JUMP_EQUAL_32, _SCRATCH, 0, 0))
        else:
            block.append((_JUMP_NOT_EQUAL_REGISTER_32, _SCRATCH, _OF_ACCESS, 0))
        if ANY not in (major, minor):
            block += [(_LOAD_NUMBER, _SCRATCH, 0, minor), (0, 0, 0, major)]
            block.append((_JUMP_NOT_EQUAL_REGISTER, _OF_BOTH, _SCRATCH, 0))
        elif major != ANY:
            block.append((_JUMP_NOT_EQUAL_32, _OF_MAJOR, 0, major))
        elif minor != ANY:
            block.append((_JUMP_NOT_EQUAL_32, _OF_MINOR, 0, minor))
        block += [(_SET_32, _ANSWER, 0, int(not policy.allow)), (_EXIT, 0, 0, 0)]
        for index, instruction in enumerate(block):
            # An offset is counted from the instruction after the jump.
            offset = len(block) - index - 1 if instruction[0] in _JUMPS else 0
            parts.append(_packed(*instruction, offset))
    parts.append(_packed(_SET_32, _ANSWER, value=int(policy.allow)))
    parts.append(_packed(_EXIT, 0))
    return b"".join(parts)


def filter_devices(directory: str, policy: DevicePolicy) -> None:
    """Make a cgroup follow a policy, in the place of the one that it follows, with no gap in between. OSError."""
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        program = bpf.load_device_program(compile_policy(policy))
        try:
            bpf.replace_device_programs(cgroup, program)
        finally:
            os.close(program)
    finally:
        os.close(cgroup)

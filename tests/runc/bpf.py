"""Classic BPF as seccomp has it: an interpreter, and a look at the program that a process has loaded."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from struct import Struct

from wherry.linux.libc import check, libc

_INSTRUCTION = Struct("HBBI")

_PTRACE_DETACH = 17
_PTRACE_SEIZE = 0x4206
_PTRACE_INTERRUPT = 0x4207
_PTRACE_SECCOMP_GET_FILTER = 0x420C


def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(_INSTRUCTION.iter_unpack(program))


def run(program: list[tuple[int, int, int, int]], number: int, architecture: int, arguments: tuple[int, ...]) -> int:
    """Return what a filter returns for a system call."""
    data = Struct("=IIQ6Q").pack(number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    accumulator = index = 0
    scratch = [0] * 16
    while True:
        code, yes, no, k = program[index]
        index += 1
        if code == 0x20:
            accumulator = int.from_bytes(data[k : k + 4], sys.byteorder)
        elif code == 0x06:
            return k
        elif code == 0x05:
            index += k
        elif code == 0x15:
            index += yes if accumulator == k else no
        elif code == 0x25:
            index += yes if accumulator > k else no
        elif code == 0x35:
            index += yes if accumulator >= k else no
        elif code == 0x45:
            index += yes if accumulator & k else no
        elif code == 0x54:
            accumulator &= k
        elif code == 0x02:
            scratch[k] = accumulator
        elif code == 0x60:
            accumulator = scratch[k]
        else:
            raise AssertionError(f"instruction {code:#x} is not one that libseccomp makes")


def loaded(pid: int) -> list[tuple[int, int, int, int]]:
    """Return the filter that a process has loaded last (PTRACE_SECCOMP_GET_FILTER, ptrace(2))."""

    def trace(request: int, address: int, data: object) -> int:
        return check(libc.ptrace(ctypes.c_ulong(request), ctypes.c_int(pid), ctypes.c_ulong(address), data))

    trace(_PTRACE_SEIZE, 0, None)
    try:
        trace(_PTRACE_INTERRUPT, 0, None)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED)
        count = trace(_PTRACE_SECCOMP_GET_FILTER, 0, None)
        buffer = ctypes.create_string_buffer(count * _INSTRUCTION.size)
        trace(_PTRACE_SECCOMP_GET_FILTER, 0, buffer)
    finally:
        trace(_PTRACE_DETACH, 0, ctypes.c_void_p(int(signal.SIG_DFL)))
    return instructions(buffer.raw)

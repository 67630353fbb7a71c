"""Seccomp filters: what they are made of, and what they do to a process."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from tests.runc import bpf
from tests.runc.seccomp_profiles import compiled, default, profile, rule
from wherry.errors import Error, InvalidArgument
from wherry.linux import seccomp as linux_seccomp
from wherry.linux.libc import check, libc
from wherry.linux.process import set_no_new_privileges
from wherry.runc import libseccomp, seccomp
from wherry.runc.seccomp import compile_filter

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32 = 0x40000000

#: System calls, x86-64.
GETSID, PERSONALITY, SOCKET, SYNC, VHANGUP, MKDIR = 124, 135, 41, 162, 153, 83
NEWER = 500

RET_ERRNO, RET_LOG, RET_ALLOW, RET_KILL = 0x00050000, 0x7FFC0000, 0x7FFF0000, 0
ENOSYS = 38

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers here are x86-64's")


def answer(document: dict[str, Any], number: int, *arguments: int, architecture: int = X86_64) -> int:
    return bpf.run(bpf.instructions(compiled(document).program), number, architecture, arguments)


@pytest.mark.parametrize(
    "document",
    [
        {"defaultAction": 5},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [None]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": "read", "action": "SCMP_ACT_ERRNO"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [1], "action": "SCMP_ACT_ERRNO"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read\0x"], "action": "SCMP_ACT_ERRNO"}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": ["SCMP_ACT_ERRNO"]}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]},
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": True},
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1},
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": 1},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (0, "EQ", 2**64))]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (0, "EQ", 1.5))]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", (-1, "EQ", 1))]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read " * 100_000, "ERRNO")]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("read", "ERRNO", *[(0, "EQ", i) for i in range(5000)])]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], "deep": json.loads("[" * 900 + "]" * 900)},
    ],
)
def test_garbage_is_refused(document: dict[str, Any]) -> None:
    if "deep" in document:
        inner: Any = document["deep"]
        for _ in range(5000):
            inner = [inner]
        document["deep"] = inner
    started = time.monotonic()
    with pytest.raises(InvalidArgument):
        compile_filter(document)
    assert time.monotonic() - started < 10


def test_a_profile_that_says_nothing_is_none() -> None:
    assert compile_filter({}) is None
    assert compile_filter({"architectures": ["SCMP_ARCH_X86"], "syscalls": []}) is None


def test_names_are_not_codecs_business() -> None:
    assert answer(profile(rule("\ud800 ü getsid", "ALLOW")), GETSID) == RET_ALLOW


def test_flags() -> None:
    names = ("LOG", "SPEC_ALLOW", "TSYNC")
    flags = compiled(profile(flags=[f"SECCOMP_FILTER_FLAG_{name}" for name in names])).flags
    assert flags == 1 | 2 | 4
    assert compiled(profile()).flags == 0
    asked = profile(rule("sync", "NOTIFY"), listenerPath="/l", listenerMetadata="m")
    found = compiled(asked)
    assert (found.flags, found.notify, found.listener_path, found.listener_metadata) == (8, True, "/l", "m")
    asked["flags"] = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    assert compiled(asked).flags == 1 | 8 | 16 | 32


def test_without_the_library_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_library", None)
    monkeypatch.setattr(seccomp, "_compiled", {})
    monkeypatch.setattr(libseccomp, "_FILE", "libseccomp.so.none")
    with pytest.raises(Error, match="package libseccomp2"):
        compile_filter(profile())


#: Loads the filter that is on its standard input, and prints what each system call of its arguments answers.
CHILD = """
import ctypes, json, mmap, os, struct, sys
from wherry.linux.process import set_no_new_privileges
from wherry.linux.seccomp import load_filter
libc = ctypes.CDLL(None, use_errno=True)
flags, calls = int(sys.argv[1]), json.loads(sys.argv[2])
program = sys.stdin.buffer.read()
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# push rbx; mov eax, edi; xor ebx, ebx; int 0x80; pop rbx; ret
code.write(bytes.fromhex("5389f831dbcd805bc3"))
compatible = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
def call(kind, number, *arguments):
    if kind == "x86":
        result = compatible(number)
        return -result if result < 0 else 0
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, arguments))
    return ctypes.get_errno() if result < 0 else 0
set_no_new_privileges()
load_filter(program, flags)
for each in calls:
    os.write(1, b"%d\\n" % call(*each))
os._exit(0)
"""


def tried(document: dict[str, Any], *calls: tuple[Any, ...], flags: int | None = None) -> tuple[list[int], int]:
    """Return what system calls, each a kind, a number and arguments, answered under a filter, and the exit code."""
    found = compiled(document)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(found.flags if flags is None else flags), json.dumps(calls)],
        input=found.program,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert not done.stderr, done.stderr.decode()
    return [int(line) for line in done.stdout.split()], done.returncode


def test_answers_of_a_process() -> None:
    document = profile(
        rule("getsid", "ALLOW"),
        rule("sync", "ERRNO", errnoRet=99),
        rule("vhangup", "ERRNO", errnoRet=0),
        rule("personality", "ALLOW", (0, "EQ", 0xFFFFFFFF)),
    )
    calls = [
        ("", GETSID),
        ("", SYNC),
        ("", VHANGUP),
        ("", PERSONALITY, 0xFFFFFFFF),
        ("", PERSONALITY, 8),
        ("", MKDIR),
        ("", NEWER),
        ("x86", 147),  # getsid
        ("x86", 36),  # sync
        ("x86", 39),  # mkdir
        ("x86", NEWER),
        ("", X32 | MKDIR),
        ("", X32 | 1000),
    ]
    assert tried(document, *calls) == ([0, 99, 0, 0, 1, 1, ENOSYS, 0, 99, 1, ENOSYS, 1, ENOSYS], 0)


@pytest.mark.parametrize("call", [("x86", 147), ("", X32 | GETSID)])
def test_an_architecture_that_is_not_named_kills(call: tuple[Any, ...]) -> None:
    document = profile(rule("getsid", "ALLOW"), architectures=["SCMP_ARCH_X86_64"])
    assert tried(document, ("", GETSID), call) == ([0], -signal.SIGSYS)


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_actions_that_end_a_process(action: str) -> None:
    assert tried(profile(rule("sync", action)), ("", GETSID), ("", SYNC)) == ([1], -signal.SIGSYS)


def test_log_lets_pass_and_trace_without_a_tracer_does_not() -> None:
    assert tried(profile(rule("sync", "LOG"), rule("getsid", "TRACE")), ("", SYNC), ("", GETSID)) == ([0, ENOSYS], 0)


@pytest.mark.parametrize("name", ["LOG", "SPEC_ALLOW", "TSYNC"])
def test_the_kernel_takes_every_flag(name: str) -> None:
    assert tried(profile(flags=[f"SECCOMP_FILTER_FLAG_{name}"]), ("", SYNC)) == ([1], 0)


def test_the_default_profile_lets_python_live() -> None:
    assert tried(default(), ("", GETSID), ("", VHANGUP), ("", NEWER), ("", PERSONALITY, 8)) == ([0, 1, ENOSYS, 0], 0)


def test_a_listener_is_asked(tmp_path: Path) -> None:
    """The whole way of a notification, seccomp_unotify(2): asked of, answered for, and told to go on."""
    document = profile(rule("getsid mkdir", "NOTIFY"), rule("dup", "ALLOW"), listenerPath=str(tmp_path / "agent"))
    found = compiled(document)
    ours, theirs = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            set_no_new_privileges()
            os.write(ours[1], b"%d\n" % linux_seccomp.load_filter(found.program, found.flags))
            os.read(theirs[0], 1)
            code = 0 if os.getsid(0) == 4711 else 1
            try:
                os.mkdir("/")
            except OSError as error:
                code |= 0 if error.errno == 17 else 2
        finally:
            os._exit(code)
    try:
        number = int(os.read(ours[0], 16))
        pidfd = os.pidfd_open(pid)
        listener = get_descriptor(pidfd, number)
        os.write(theirs[1], b"x")
        assert receive_and_answer(listener, value=4711) == (pid, GETSID)
        assert receive_and_answer(listener, go_on=True) == (pid, MKDIR)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def get_descriptor(pidfd: int, number: int) -> int:
    """pidfd_getfd(2)"""
    return check(libc.syscall(ctypes.c_long(438), ctypes.c_int(pidfd), ctypes.c_int(number), ctypes.c_uint(0)))


def receive_and_answer(listener: int, *, value: int = 0, go_on: bool = False) -> tuple[int, int]:
    """Answer for one system call, and return whose it was and its number."""
    notification = bytearray(80)
    fcntl.ioctl(listener, 0xC0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
    id, pid, _flags, number = Struct("=QIIi").unpack_from(notification)
    # SECCOMP_USER_NOTIF_FLAG_CONTINUE
    fcntl.ioctl(listener, 0xC0182101, Struct("=QqiI").pack(id, value, 0, int(go_on)))
    return pid, number


def test_loading_what_is_no_program() -> None:
    for program in (b"", b"1234567", bytes(8 * 4097)):
        with pytest.raises(OSError, match="Invalid argument"):
            linux_seccomp.load_filter(program, 0)

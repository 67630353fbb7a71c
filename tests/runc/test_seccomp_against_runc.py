"""Seccomp filters beside those that runc makes of the same profiles, as programs: asked of every system call."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_root
from tests.runc import bpf
from tests.runc.seccomp_profiles import compiled, default, profile, rule
from wherry.errors import InvalidArgument
from wherry.runc.seccomp import compile_filter

X86_64, X86, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
X32 = 0x40000000

#: System calls, x86-64, that the profiles here compare arguments of.
GETSID, PERSONALITY, SOCKET, SYNC = 124, 135, 41, 162
NEWER = 500

RET_ERRNO, RET_KILL = 0x00050000, 0
ENOSYS = 38

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers here are x86-64's")

#: Makes a container with a profile, and returns its process or an error.
Peer = Callable[[dict[str, Any]], tuple[int, str]]

#: Numbers, architectures and arguments that a filter is asked about.
NUMBERS = [*range(460), NEWER, 1000, *range(X32, X32 + 560), X32 + NEWER, 0x80000001, 0xFFFFFFFF]
ARCHITECTURES = (X86_64, X86, AARCH64, 0)

#: Those whose arguments matter in some profile, on one of the architectures.
COMPARED = (GETSID, *range(80, 90), SYNC, PERSONALITY, SOCKET, 9, 10, 36, 39, 40, 136, 147)


def _values(document: dict[str, Any]) -> list[tuple[int, ...]]:
    """Lists of arguments around those that a profile compares with."""
    found: set[int] = {0}
    for entry in document.get("syscalls") or ():
        for argument in entry.get("args") or ():
            for value in (argument.get("value", 0), argument.get("valueTwo", 0)):
                found.update(each & (2**64 - 1) for each in (value - 1, value, value + 1, value | 1 << 40))
    chosen = sorted(found)[:24]
    return [(each, other, each, other, other, each) for each in chosen for other in (0, chosen[-1])]


def all_args(names: str, action: str) -> list[dict[str, Any]]:
    operators = ("NE", "LT", "LE", "EQ", "GE", "GT")
    return [
        rule(name, action, (index, operator, 2**32 + 7))
        for index, (name, operator) in enumerate(zip(names.split(), operators, strict=True))
    ]


PROFILES: dict[str, dict[str, Any]] = {
    "plain": profile(rule("getsid", "ALLOW")),
    "x86-64-only": profile(architectures=["SCMP_ARCH_X86_64"]),
    "x86-and-x86-64": profile(architectures=["SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]),
    "foreign": profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    "twice": profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86_64"]),
    "errno": profile(rule("getsid", "ERRNO", errnoRet=99), rule("sync", "ERRNO"), rule("vhangup", "ERRNO", errnoRet=0)),
    "default-errno": profile(defaultErrnoRet=13),
    "default-enosys": profile(defaultErrnoRet=ENOSYS),
    "default-same-action": profile(rule("getsid", "ERRNO"), rule("sync", "ERRNO", errnoRet=2)),
    "default-kill": profile(defaultAction="SCMP_ACT_KILL"),
    "default-kill-process": profile(defaultAction="SCMP_ACT_KILL_PROCESS"),
    "default-trap": profile(defaultAction="SCMP_ACT_TRAP"),
    "default-log": profile(rule("getsid", "ERRNO"), defaultAction="SCMP_ACT_LOG"),
    "default-trace": profile(rule("getsid", "ERRNO"), defaultAction="SCMP_ACT_TRACE", defaultErrnoRet=7),
    "default-allow": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("getsid", "ERRNO")]},
    "actions": profile(
        rule("getsid", "KILL"), rule("sync", "KILL_THREAD"), rule("vhangup", "KILL_PROCESS"), rule("mkdir", "TRAP"),
        rule("rmdir", "TRACE"), rule("unlink", "TRACE", errnoRet=5), rule("link", "LOG"),
        rule("symlink", "KILL", errnoRet=3),
    ),
    "operators": profile(*all_args("getsid sync mkdir rmdir unlink link", "ALLOW")),
    "operators-deny": {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": all_args("getsid sync mkdir rmdir unlink link", "ERRNO"),
    },
    "masked": profile(
        rule("getsid", "ALLOW", (0, "MASKED_EQ", 0x7E020000, 0)),
        rule("sync", "ALLOW", (1, "MASKED_EQ", 0xFF00000000, 0x100000000)),
    ),
    "several-arguments": profile(rule("getsid", "ALLOW", (0, "EQ", 1), (2, "GT", 5), (5, "LE", 9))),
    "one-argument-twice": profile(rule("getsid", "ALLOW", (0, "EQ", 1), (0, "EQ", 5))),
    "one-argument-twice-and-another": profile(rule("getsid", "ALLOW", (0, "GE", 10), (0, "LE", 5), (1, "EQ", 0))),
    "several-rules": profile(
        rule("getsid", "ALLOW", (0, "EQ", 1)), rule("getsid", "ALLOW", (0, "EQ", 8)),
        rule("getsid", "ERRNO", (0, "EQ", 4), errnoRet=4),
    ),
    "rule-and-narrower": profile(rule("getsid", "ALLOW"), rule("getsid", "ERRNO", (0, "EQ", 4), errnoRet=4)),
    "same-twice": profile(rule("getsid", "ALLOW"), rule("getsid", "ALLOW")),
    "unknown-names": profile(rule("no_such_call getsid also_not", "ALLOW")),
    "only-elsewhere": profile(rule("cacheflush arm_fadvise64_64 socketcall", "ALLOW")),
    "no-arguments": profile({**rule("getsid", "ALLOW"), "args": []}),
    "newer-than-others": profile(rule("cachestat fchmodat2 map_shadow_stack futex_wake", "ALLOW")),
    "many": profile(rule("getsid", "ALLOW", *[(0, "EQ", value) for value in range(40)])),
}  # fmt: skip


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    """Have runc make a container with a profile: gives its process, which has loaded the filter, or runc's words."""
    need_root("runc", "busybox")
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    (tmp_path / "rootfs/proc").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "rootfs/bin/busybox")
    name = f"wherry-seccomp-{os.getpid()}"
    root = ["--root", str(tmp_path / "runc")]

    def create(document: dict[str, Any]) -> tuple[int, str]:
        config = {
            "ociVersion": "1.0.2",
            # Without no_new_privs runc loads the filter early: it is there once the container is created.
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/busybox", "true"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "seccomp": document},
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        with open(tmp_path / "errors", "wb") as errors:
            command = ["runc", *root, "create", "--bundle", str(tmp_path), "--pid-file", str(tmp_path / "pid"), name]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, timeout=30, check=False
            )
        if done.returncode:
            return 0, (tmp_path / "errors").read_text()
        return int((tmp_path / "pid").read_text()), ""

    yield create
    subprocess.run(["runc", *root, "delete", "--force", name], check=False, capture_output=True)


@pytest.mark.root
@pytest.mark.parametrize("name", [*PROFILES, "default"])
def test_a_filter_answers_as_runcs(name: str, peer: Peer) -> None:
    document = default() if name == "default" else PROFILES[name]
    pid, words = peer(document)
    assert pid, words
    theirs, ours = bpf.loaded(pid), bpf.instructions(compiled(document).program)
    for architecture in ARCHITECTURES:
        for number in NUMBERS:
            for arguments in (
                _values(document) if number in (GETSID, *range(80, 90), SYNC, PERSONALITY, SOCKET) else [()]
            ):
                expected = bpf.run(theirs, number, architecture, arguments)
                got = bpf.run(ours, number, architecture, arguments)
                assert hex(got) == hex(expected), (hex(architecture), number, arguments)


@pytest.mark.root
@pytest.mark.parametrize("architectures", [None, ["SCMP_ARCH_X86"], ["SCMP_ARCH_X32"]])
def test_the_native_architecture_need_not_be_named(architectures: list[str] | None, peer: Peer) -> None:
    """The filter is for it in any case. To newer system calls of it runc 1.1.5 says EPERM; later ones ENOSYS, as we."""
    document = profile(architectures=architectures)
    pid, words = peer(document)
    assert pid, words
    theirs, ours = bpf.loaded(pid), bpf.instructions(compiled(document).program)
    highest = 439  # faccessat2
    for architecture in ARCHITECTURES:
        for number in NUMBERS:
            expected = bpf.run(theirs, number, architecture, ())
            if architecture == X86_64 and number > highest and not number & X32:
                assert expected in (RET_ERRNO | 1, RET_KILL)
                expected = RET_ERRNO | ENOSYS
            assert bpf.run(ours, number, architecture, ()) == expected, (hex(architecture), number)


WRONG: dict[str, dict[str, Any]] = {
    "action": profile(defaultAction="SCMP_ACT_NONE"),
    "no-action": profile(defaultAction=None),
    "rule-action": profile(rule("sync", "NONE")),
    "architecture": profile(architectures=["SCMP_ARCH_VAX"]),
    "operator": profile(rule("sync", "ALLOW", (0, "IS", 1))),
    "empty-name": profile({"names": [""], "action": "SCMP_ACT_ALLOW"}),
    "argument-6": profile(rule("sync", "ALLOW", (6, "EQ", 1))),
    "notify-default": profile(defaultAction="SCMP_ACT_NOTIFY"),
    "notify-write": profile(rule("write", "NOTIFY"), listenerPath="/run/agent"),
    "notify-nowhere": profile(rule("sync", "NOTIFY")),
    "big-endian": profile(architectures=["SCMP_ARCH_S390X"]),
    "errno-too-large": profile(defaultErrnoRet=4096),
}


@pytest.mark.root
@pytest.mark.parametrize("name", WRONG)
def test_what_runc_refuses_is_refused(name: str, peer: Peer) -> None:
    with pytest.raises(InvalidArgument) as raised:
        compile_filter(WRONG[name])
    pid, words = peer(WRONG[name])
    assert not pid
    text = raised.value.message.removesuffix(": invalid argument")
    if name not in ("big-endian", "errno-too-large", "no-action"):  # those runc has worse words for
        assert text in words.replace('\\"', '"')

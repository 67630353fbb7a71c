"""Seccomp profiles for tests: the one that containers get by default, and small ones that let a test's child live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from wherry.runc.seccomp import Filter, compile_filter

_CONTAINERS = Path("/usr/share/containers/seccomp.json")

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)

#: What Go, Python and busybox need to get to a test's system calls and to end.
NEEDED = (
    "read write readv writev close openat open fstat newfstatat stat lstat lseek mmap mprotect munmap brk madvise "
    "futex rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack gettid getpid tgkill execve exit exit_group clone "
    "clone3 set_tid_address set_robust_list rseq prlimit64 getrandom fcntl epoll_ctl epoll_pwait epoll_create1 "
    "eventfd2 pipe2 nanosleep getdents64 prctl arch_prctl unlinkat readlink readlinkat capget capset setuid setgid "
    "setgroups getuid geteuid getgid getegid umask chdir getcwd sched_getaffinity sched_yield dup3 dup2 dup ioctl "
    "fchown sendto recvfrom sendmsg recvmsg socketpair getppid statfs fstatfs faccessat2 faccessat wait4 waitid "
    "seccomp poll ppoll"
).split()


def default() -> dict[str, Any]:
    """The profile of containers-common, docker's in another form, for a container of docker's capabilities."""
    document = json.loads(_CONTAINERS.read_text())
    capabilities = {f"CAP_{name}" for name in _CAPABILITIES.split()}
    syscalls = []
    for entry in document["syscalls"]:
        includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
        if not capabilities.issuperset(includes.get("caps") or ()) or capabilities & set(excludes.get("caps") or ()):
            continue
        if includes.get("arches") and "amd64" not in includes["arches"]:
            continue
        kept = {name: entry[name] for name in ("names", "action", "args", "errnoRet") if entry.get(name) is not None}
        syscalls.append(kept)
    return {
        "defaultAction": document["defaultAction"],
        "defaultErrnoRet": document["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": syscalls,
    }


def profile(*syscalls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A profile that refuses all but what is needed, for which `syscalls` come first."""
    named = {name for entry in syscalls for name in entry["names"]}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [*syscalls, {"names": [name for name in NEEDED if name not in named], "action": "SCMP_ACT_ALLOW"}],
        **fields,
    }


def rule(names: str, action: str, *args: tuple[Any, ...], **fields: Any) -> dict[str, Any]:
    """A rule; each of `args` is an index, an operator without its prefix, and one or two values."""
    keys = ("index", "op", "value", "valueTwo")
    comparisons = [dict(zip(keys, (arg[0], f"SCMP_CMP_{arg[1]}", *arg[2:]), strict=False)) for arg in args]
    entry: dict[str, Any] = {"names": names.split(), "action": f"SCMP_ACT_{action}", **fields}
    return {**entry, "args": comparisons} if comparisons else entry


def compiled(document: dict[str, Any], **options: str) -> Filter:
    """The filter of a profile that has one."""
    found = compile_filter(document, **options)
    assert found is not None
    return found

"""Seccomp: actions, arguments, architectures, and what unknown system calls answer."""

from __future__ import annotations

from typing import Any

from tests.runc.differential.cases import Case

_CALLS = (
    "getpid getppid uname-null mkdir-null chmod-null unshare-uts unshare-user personality-read personality-"
    " linux32 keyctl add_key-null bpf-null openat2-null clone3-null ptrace-traceme socket-vsock socket-inet"
    " sethostname-null unknown-460 unknown-1000"
)
_ASKED = tuple(f"syscall:{name}" for name in _CALLS.split())
#: What the probe itself, and a runtime that has loaded the filter, calls.
NEEDED = (
    "read write open openat close stat fstat lstat newfstatat poll lseek mmap mprotect munmap brk rt_sigaction"
    " rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe pipe2 select sched_yield mremap"
    " mincore madvise dup dup2 dup3 pause nanosleep clock_nanosleep getitimer getpid socket connect sendto"
    " recvfrom sendmsg recvmsg bind getsockname clone fork vfork execve exit wait4 kill uname fcntl getdents"
    " getdents64 getcwd chdir rename mkdir unlink unlinkat readlink readlinkat chmod umask gettimeofday getrlimit"
    " setrlimit getrusage sysinfo times getuid getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid"
    " getgroups setgroups getresuid getresgid setresuid setresgid setfsuid setfsgid getsid capget capset"
    " rt_sigpending sigaltstack personality statfs fstatfs prctl arch_prctl gettid futex sched_getaffinity"
    " sched_setaffinity set_tid_address exit_group epoll_wait epoll_ctl epoll_create1 epoll_pwait tgkill"
    " set_robust_list getrandom rseq prlimit64 keyctl sched_getattr getpriority ioprio_get clock_gettime eventfd2"
    " statx faccessat faccessat2 mkdirat fchmodat close_range seccomp waitid getxattr mknod mknodat"
)


def _seccomp(name: str, profile: dict[str, Any], asked: tuple[str, ...] = _ASKED, **others: Any) -> Case:
    return Case(f"seccomp/{name}", {"linux.seccomp": profile, **others.pop("changes", {})}, asked, **others)


def _deny(*names: str, action: str = "SCMP_ACT_ERRNO", **fields: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": list(names), "action": action, **fields}]}


def _argument(index: int, value: int, op: str, second: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": op}


def _allow(action: str = "SCMP_ACT_ERRNO", **fields: Any) -> dict[str, Any]:
    return {"defaultAction": action, "syscalls": [{"names": NEEDED.split(), "action": "SCMP_ACT_ALLOW"}], **fields}


CASES = [
    _seccomp("allow-everything", {"defaultAction": "SCMP_ACT_ALLOW"}),
    _seccomp("allow-list", _allow()),
    _seccomp("allow-list-errno", _allow(defaultErrnoRet=38)),
    _seccomp("allow-list-architectures", _allow(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])),
    _seccomp("allow-list-trap", _allow("SCMP_ACT_TRAP"), ("syscall:unshare-uts", "syscall:getpid")),
    _seccomp("allow-list-log", _allow("SCMP_ACT_LOG")),
    _seccomp("allow-list-without-privileges", _allow(), changes={"process.noNewPrivileges": False}),
    _seccomp("allow-list-user", _allow(), changes={"process.user": {"uid": 1000, "gid": 1000}}),
    _seccomp("errno", _deny("unshare", "getppid")),
    _seccomp("errno-given", _deny("unshare", "getppid", errnoRet=5)),
    _seccomp("errno-0", _deny("unshare", errnoRet=0)),
    _seccomp("kill", _deny("unshare", action="SCMP_ACT_KILL")),
    _seccomp("kill-process", _deny("unshare", action="SCMP_ACT_KILL_PROCESS")),
    _seccomp("kill-thread", _deny("unshare", action="SCMP_ACT_KILL_THREAD")),
    _seccomp("trap", _deny("unshare", action="SCMP_ACT_TRAP")),
    _seccomp("trace", _deny("unshare", action="SCMP_ACT_TRACE")),
    _seccomp("trace-errno", _deny("unshare", action="SCMP_ACT_TRACE", errnoRet=7)),
    _seccomp("log", _deny("unshare", action="SCMP_ACT_LOG")),
    _seccomp("allow-beside-allow", _deny("unshare", action="SCMP_ACT_ALLOW")),
    *(
        _seccomp(f"argument-{op.lower()}", _deny("personality", args=[_argument(0, 8, f"SCMP_CMP_{op}")]))
        for op in ("EQ", "NE", "LT", "LE", "GT", "GE")
    ),
    _seccomp("argument-masked", _deny("unshare", args=[_argument(0, 0x10000000, "SCMP_CMP_MASKED_EQ", 0x10000000)])),
    _seccomp("arguments-both", _deny("socket", args=[_argument(0, 40, "SCMP_CMP_EQ"), _argument(1, 1, "SCMP_CMP_EQ")])),
    _seccomp(
        "arguments-of-one-index",
        _deny("personality", args=[_argument(0, 8, "SCMP_CMP_EQ"), _argument(0, 0xFFFFFFFF, "SCMP_CMP_EQ")]),
    ),
    _seccomp("unknown-names", _deny("no_such_call", "unshare")),
    _seccomp(
        "several-rules",
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                {"names": ["add_key", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2},
                {"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"},
            ],
        },
    ),
    _seccomp(
        "flags-log", {**_deny("unshare"), "flags": ["SECCOMP_FILTER_FLAG_LOG"]}, peer="crun", only="asked|Seccomp"
    ),
    _seccomp(
        "flags-speculation",
        {**_deny("unshare"), "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]},
        peer="crun",
        only="asked|Seccomp",
    ),
    _seccomp(
        "flags-tsync", {**_deny("unshare"), "flags": ["SECCOMP_FILTER_FLAG_TSYNC"]}, peer="crun", only="asked|Seccomp"
    ),
    _seccomp("empty", {}),
    _seccomp("no-default", {"syscalls": []}),
    _seccomp("unknown-action", _deny("unshare", action="SCMP_ACT_NONE"), fails=True, text=True),
    _seccomp("unknown-default", {"defaultAction": "SCMP_ACT_NONE"}, fails=True, text=True),
    _seccomp("unknown-architecture", {**_deny("unshare"), "architectures": ["SCMP_ARCH_NONE"]}, fails=True, text=True),
    _seccomp("unknown-operator", _deny("unshare", args=[_argument(0, 1, "SCMP_CMP_NONE")]), fails=True, text=True),
    _seccomp("unknown-flag", {**_deny("unshare"), "flags": ["SECCOMP_FILTER_FLAG_NONE"]}, fails=True),
    _seccomp("index-too-large", _deny("unshare", args=[_argument(6, 1, "SCMP_CMP_EQ")]), fails=True, text=True),
    _seccomp(
        "listener-missing",
        {**_deny("unshare", action="SCMP_ACT_NOTIFY"), "listenerPath": "/no/such/socket"},
        fails=True,
        text=True,
    ),
    _seccomp("notify-without-listener", _deny("unshare", action="SCMP_ACT_NOTIFY"), fails=True, text=True),
    _seccomp("default-notify", {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"}, fails=True, text=True),
    _seccomp("write-notify", {**_deny("write", action="SCMP_ACT_NOTIFY"), "listenerPath": "/x"}, fails=True, text=True),
]

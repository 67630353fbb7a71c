"""A further process in a container: what it takes from its own document, and what from the container."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.runc.differential.cases import HOST_ID, Case, alike, namespaces, tmpfs, user_namespace

_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def _exec(name: str, process: dict[str, Any] | None = None, *asked: str, **others: Any) -> Case:
    return Case(f"exec/{name}", others.pop("changes", {}), asked, how="exec", process=process or {}, **others)


CASES = [
    _exec("plain"),
    _exec("exit-code", None, "exit:33"),
    _exec("user", {"user": {"uid": 1000, "gid": 1000, "additionalGids": [5, 6]}}),
    _exec("umask", {"user": {"uid": 0, "gid": 0, "umask": 0o70}}),
    _exec("umask-of-container", None, changes={"process.user": {"uid": 0, "gid": 0, "umask": 0o70}}),
    _exec("cwd", {"cwd": "/home/user"}),
    _exec("cwd-missing", {"cwd": "/not/there"}, fails=True, text=True),
    _exec("environment", {"env": ["A=1", "PATH=/"], "args": ["probe"]}),
    _exec("environment-home", {"env": ["PATH=/bin"], "user": {"uid": 1000, "gid": 1000}}),
    _exec("no-capabilities", {"capabilities": None}),
    _exec("all-sets", {"capabilities": alike(_SETS, ["CAP_KILL", "CAP_CHOWN"])}),
    _exec("more-than-container", {"capabilities": alike(_SETS[:3], ["CAP_SYS_ADMIN"])}),
    _exec("new-privileges", {"noNewPrivileges": False}),
    _exec("no-limits", {"rlimits": None}),
    _exec("limits", {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 64}]}),
    _exec(
        "limits-of-container",
        {"rlimits": None},
        changes={"process.rlimits": [{"type": "RLIMIT_NPROC", "soft": 99, "hard": 100}]},
    ),
    # As the peer: it takes CAP_SYS_RESOURCE, which tests/vm has.
    _exec(
        "limit-raised",
        {
            "rlimits": [
                {"type": "RLIMIT_NPROC", "soft": 1 << 32, "hard": 1 << 40},
                {"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99},
            ]
        },
        fails=None,
    ),
    _exec("oom-score", {"oomScoreAdj": 300}),
    _exec("oom-score-of-container", None, changes={"process.oomScoreAdj": 200}),
    _exec("not-found", {"args": ["no-such-program"]}, fails=True, text=True),
    _exec("path-not-found", {"args": ["/no/such/program"]}, fails=True, text=True),
    _exec("not-executable", {"args": ["/etc/passwd"]}, fails=True, text=True),
    _exec("directory", {"args": ["/etc"]}, fails=True, text=True),
    _exec("no-arguments", {"args": []}, fails=True, text=True),
    _exec("relative-cwd", {"cwd": "etc"}, fails=True, text=True),
    _exec("preserved-descriptors", None, flags=("--preserve-fds", "2")),
    _exec("user-namespace", None, changes=user_namespace(), owner=HOST_ID),
    _exec(
        "user-namespace-user",
        {"user": {"uid": 7, "gid": 8, "additionalGids": [9]}},
        changes=user_namespace(),
        owner=HOST_ID,
    ),
    _exec("host-pid", None, changes={"linux.namespaces": namespaces("network", "ipc", "uts", "mount")}),
    _exec("host-network", None, changes={"linux.namespaces": namespaces("pid", "ipc", "uts", "mount")}),
    _exec("cgroup-namespace", None, changes={"linux.namespaces+": namespaces("cgroup")}),
    _exec("read-only-root", None, "create:/tmp", changes={"root.readonly": True}),
    _exec("mounts", None, "create:/mnt", changes={"mounts+": [tmpfs("/mnt", "size=1m")]}),
    _exec(
        "seccomp-of-container",
        None,
        "syscall:getppid",
        "syscall:unshare-uts",
        changes={
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["unshare", "getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
            }
        },
    ),
    Case(
        "exec/terminal",
        {},
        ("stat:/dev/pts/0", "open:/dev/tty", "open:/dev/console"),
        how="exec-console",
        process={"terminal": True},
    ),
    Case(
        "exec/terminal-size",
        {},
        how="exec-console",
        process={"terminal": True, "consoleSize": {"height": 20, "width": 30}},
    ),
    Case(
        "exec/terminal-of-user", {}, how="exec-console", process={"terminal": True, "user": {"uid": 1000, "gid": 1000}}
    ),
    Case(
        "exec/terminal-user-namespace", user_namespace(), how="exec-console", process={"terminal": True}, owner=HOST_ID
    ),
    Case(
        "exec/terminal-not-found",
        {},
        how="exec-console",
        process={"terminal": True, "args": ["no-such"]},
        fails=True,
        text=True,
    ),
]

#: What is exec'ed into a container that may trace it is made by a stage: it comes out the same.
_TRACER = alike(_SETS[:3], ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SYS_PTRACE"])
_TRACED = """plain exit-code user umask cwd cwd-missing more-than-container new-privileges limits limit-raised oom-score
 not-found
 path-not-found directory preserved-descriptors host-network cgroup-namespace seccomp-of-container terminal
 terminal-size terminal-of-user terminal-not-found""".split()

CASES += [
    replace(case, name=f"exec-traced/{name}", changes={**case.changes, "process.capabilities": _TRACER})
    for name in _TRACED
    for case in CASES
    if case.name == f"exec/{name}"
]
CASES += [
    Case(
        f"exec-traced/seccomp-{'without' if privileges else 'with'}-no-new-privileges",
        {
            "process.capabilities": _TRACER,
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [
                    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                    {"names": ["unshare", "getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                ],
            },
        },
        ("syscall:getppid", "syscall:unshare-uts"),
        how="exec",
        process={"noNewPrivileges": not privileges},
    )
    for privileges in (False, True)
]

"""CVE-2019-14271 and its like: what a process opens after it has entered a container's root, as strace sees it.

No module, library, codec, name service or time zone of the image's may be loaded by a process that is still ours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_root
from tests.runc.security.laboratory import Laboratory

#: All that is opened: the root itself (for read-only mounts and terminals), and the one file that says a user's home.
_ALLOWED = {"/", "/etc/passwd"}
#: By a descriptor of the host's proc: sysctls, labels, what is held already, whether groups may be set.
_PROC = re.compile(r"openat2?\(\d+, \"(sys/|\d+/attr/|\d+/fd/|\d+/setgroups)")
#: Only named, to be looked at or changed as a mount.
_NAMED = re.compile(r"openat2?\(.*\bO_PATH\b")

#: What a stage makes.
_SIBLING = re.compile(r"clone(?:\(.*CLONE_PARENT| resumed).*= (\d+)$")

_CALLS = "clone,open,openat,openat2,execve,execveat,pivot_root,setns,open_tree,uselib"


def _opened(trace: Path) -> dict[str, set[str]]:
    """Return what was opened and executed inside, by process, from its entry to its program."""
    inside: dict[str, set[str]] = {}
    ended = set()
    for line in trace.read_text(errors="replace").splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        entered = call.startswith("pivot_root(") or (call.startswith("setns(") and "CLONE_NEWNS" in call)
        if entered:
            inside[pid] = set()
        elif pid in inside and (sibling := _SIBLING.search(call)):
            inside.setdefault(sibling[1], set())
        elif pid in inside and pid not in ended and not call.startswith(("setns(", "+++", "---", "<...")):
            if call.startswith("execve("):
                ended.add(pid)
            if not _PROC.match(call) and not _NAMED.match(call) and (name := re.search(r"\"([^\"]*)\"", call)):
                inside[pid].add(name[1])
    return inside


_PROCESS: dict[str, Any] = {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 1000, "gid": 1000}}

_TRACER = {"process.capabilities": {"bounding": ["CAP_SYS_PTRACE"]}}

_CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "plain": ({}, None),
    "everything": (
        {
            "process.user": {"uid": 1000, "gid": 1000, "additionalGids": [5]},
            "process.cwd": "/made/here",
            "root.readonly": True,
            "linux.sysctl": {"kernel.msgmax": "4242"},
            "mounts+": [{"destination": "/ro", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]}],
            "linux.seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
            },
            "hooks": {"startContainer": [{"path": "/bin/true"}]},
            "domainname": "domain",
        },
        None,
    ),
    "terminal": ({"process.terminal": True}, None),
    "no such program": ({"process.args": ["nothing"]}, None),
    "no program": ({"process.args": ["/etc/passwd"]}, None),
    "directory of another": ({"process.cwd": "/locked", "process.user": {"uid": 1000, "gid": 1000}}, None),
    "name that is no UTF-8": ({"process.args": ["/n\udce4mlich"]}, None),
    "exec": ({"process.args": ["/bin/sleep", "9"]}, _PROCESS),
    "exec with a terminal": ({"process.args": ["/bin/sleep", "9"]}, {**_PROCESS, "terminal": True}),
    "exec of no such program": ({"process.args": ["/bin/sleep", "9"]}, {**_PROCESS, "args": ["nothing"]}),
    "exec by a stage": ({"process.args": ["/bin/sleep", "9"], **_TRACER}, _PROCESS),
    "exec by a stage on a terminal": (
        {"process.args": ["/bin/sleep", "9"], **_TRACER},
        {**_PROCESS, "terminal": True},
    ),
    "exec of no program by a stage": (
        {"process.args": ["/bin/sleep", "9"], **_TRACER},
        {**_PROCESS, "args": ["/etc/passwd"]},
    ),
    "exec in no such directory": ({"process.args": ["/bin/sleep", "9"]}, {**_PROCESS, "cwd": "/nowhere"}),
}


def _run(laboratory: Laboratory, name: str, *without: str) -> set[str]:
    need_root("strace")
    changes, exec = _CASES[name]
    bundle = laboratory.bundle({"process.args": ["/bin/true"], **changes}, {"locked/": ""})
    (bundle / "rootfs/locked").chmod(0o700)
    trace = bundle / "trace"
    steps: list[Any] = ["create", "start", "wait"]
    if exec:
        steps = ["create", "start", {"exec": exec, "output": str(bundle / "exec.output")}]
    laboratory.run(
        bundle,
        without=without,
        steps=steps,
        console=changes.get("process.terminal", False),
        command=["strace", "-f", "-qq", "-s", "300", "-e", f"trace={_CALLS}", "-o", str(trace)],
        environment={"LANG": "de_DE.UTF-8", "TZ": "Europe/Berlin", "LANGUAGE": "de"},
    )
    inside = _opened(trace)
    execs = "clone" if "by a stage" in name and "no program" not in name else "setns" if exec else ""
    assert len(inside) == {"": 1, "setns": 2, "clone": 3}[execs], trace.read_text()
    return set.union(*inside.values())


@pytest.mark.parametrize("name", _CASES)
def test_nothing_of_the_image_is_opened(laboratory: Laboratory, name: str) -> None:
    changes, _ = _CASES[name]
    opened = _run(laboratory, name)
    assert opened
    programs = {changes.get("process.args", ["/bin/true"])[0], "/bin/true", "/bin/sleep"}
    assert not opened - _ALLOWED - programs


@pytest.mark.parametrize(
    ("without", "mark"),
    [
        ("own_passwd_parser", r"nsswitch\.conf|libnss|/etc/passwd\.|ld\.so|/run/systemd|/var/run/nscd"),
        ("imports", r"python3"),
    ],
)
def test_what_strace_would_see(laboratory: Laboratory, without: str, mark: str) -> None:
    opened = _run(laboratory, "plain", without)
    assert any(re.search(mark, path) for path in opened), opened

"""One container's life in many calls, most of them wrong: the words and exit codes are runc's."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.command import run
from tests.runc.command.runtime import Runtime
from tests.runc.command.transcript import Transcript


def _life(runtime: Runtime) -> list[str]:
    id = runtime.configure("sleep", "1000")
    at = Transcript(runtime, id)
    call = at.call
    bundle = ("--bundle", str(runtime.bundle))
    call("list")
    call("list", "--format", "json")
    call("state", id)
    call("exec", id, "true")
    call("create", *bundle, id, detached=True)
    call("create", *bundle, id, detached=True)
    call("state", id)
    for form in ((), ("-f", "json"), ("-q",), ("-f", "nonsense"), ("--quiet", "surplus")):
        call("list", *form)
    call("ps", "--format=json", id)
    call("ps", "--format=nonsense", id)
    call("exec", id, "sh", "-c", "echo before the start; exit 3")
    call("start", id)
    call("start", id)
    _while_it_runs(at, runtime, id)
    call("pause", id)
    call("state", id)
    call("exec", id, "true")
    call("delete", id)
    call("update", "--pids-limit", "50", id)
    call("resume", id)
    call("resume", id)
    call("kill", id, "KILL")
    runtime.wait_for(id, "stopped")
    for words in ("start", "resume", "exec", "ps --format json", "update --memory 20m", "state", "delete"):
        call(*words.split(), id)
    call("kill", id)
    for words in (
        "kill",
        "kill a b c",
        "nonsense",
        "create --nonsense a",
        "spec a",
        "--nonsense",
        "--log-format x list",
    ):
        call(*words.split())
    call("delete", "--force", id)
    call("delete", id)
    call("run", "--bundle", "/nonexistent", id)
    call("create", "--bundle", "/", id)
    call("create", *bundle, "--console-socket", "x", id)
    return at.lines


def _while_it_runs(at: Transcript, runtime: Runtime, id: str) -> None:
    call = at.call
    for signal in ("nonsense", "SIGRTMIN", "0", "100", "-1", "WINCH", "sigcont", "SIGURG"):
        call("kill", id, signal)
    call("delete", id)
    call("ps", id)
    call("ps", id, "-o", "pid,comm", "-e")
    call("ps", id, "-o", "comm")
    call("ps", id, "--nonsense")
    for words in (
        ["true"],
        ["sh", "-c", "exit 7"],
        ["sh", "-c", "kill -9 $$"],
        ["nonsense"],
    ):
        call("exec", id, *words)
    for flags in (
        "--cgroup a:b:c",
        "--cgroup a --cgroup b",
        "--user x:y",
        "--user x",
        "-g -1",
        "-g x",
        "-p /nonexistent",
        "--tty",
        "--detach --tty",
        "--cwd nonsense",
        "--cwd /nonexistent",
        "-u 1000:1001 -g 5 -e A=b --cwd /bin --no-new-privs=false",
    ):
        call("exec", *flags.split(), id, "sh", "-c", "echo $A; pwd; id -u; id -g; id -G; grep NoNew /proc/self/status")
    call("exec", id)
    call("exec", "--env", "A=ä", id, "cat", input=b"given\n")
    for flags in (
        "--memory 1x",
        "--cpu-quota x",
        "--cpu-share -1",
        "--pids-limit x",
        "--l3-cache-schema x",
        "-r /nonexistent",
        "--memory 32m --memory-reservation 16MiB --cpu-share 300 --cpu-quota 20000 --cpu-period 50000 --pids-limit 77",
        "",
    ):
        call("update", *flags.split(), id)
    call("update", "-r", "-", id, input=b'{"cpu": {"shares": 400}, "pids": {"limit": 66}, "more": {}}')
    at.lines += _limits(id)
    call("events", "--interval", "0s", id)
    call("events", "--interval", "x", id)
    stats = json.loads(call("events", "--stats", id, cut=True).check().text)
    at.lines += _shape(stats)


def _limits(id: str) -> list[str]:
    """Return what limits a container has, whatever hierarchy they are in."""
    found = []
    for name in (
        "pids.max",
        "cpu.shares",
        "cpu.weight",
        "cpu.cfs_quota_us",
        "cpu.max",
        "memory.limit_in_bytes",
        "memory.max",
    ):
        found.append(f"{name} {run(['sh', '-c', f'cat /sys/fs/cgroup/*/{id}/{name} /sys/fs/cgroup/{id}/{name}']).text}")
    return found


def _shape(document: Any, path: str = "") -> list[str]:
    """Return the names of a document's fields; lists, and what is there or not as chance has it, are left out."""
    if not isinstance(document, dict):
        return [path]
    found = [line for name in sorted(document) for line in _shape(document[name], f"{path}.{name}")]
    return [line for line in found if not line.startswith((".data.blkio.", ".data.memory.cache"))]


def test_life(ours: Runtime, runc: Runtime) -> None:
    theirs, own = _life(runc), _life(ours)
    different = [f"runc: {left}ours: {right}" for left, right in zip(theirs, own, strict=True) if left != right]
    assert different == []


def test_neither_sees_the_others(ours: Runtime, runc: Runtime) -> None:
    """Even with the same root directory."""
    id = runc.configure("sleep", "1000")
    runc.detached("run", "--detach", "--bundle", runc.bundle, id).check()
    root = ["--root", str(runc.root)]
    assert run([ours.program, *root, "list", "-q"]).check().text == ""
    for words in (["delete", "--force"], ["delete"], ["state"]):
        run([ours.program, *root, *words, id])
    assert runc("list", "-q").check().text == f"{id}\n"

    own = ours.configure("sleep", "1000")
    ours.detached("run", "--detach", "--bundle", ours.bundle, own).check()
    for other in ("runc", "crun"):
        assert own not in run([other, "--root", ours.root, "list", "-q"]).text
        for words in (["state"], ["delete"], ["delete", "--force"]):
            run([other, "--root", ours.root, *words, own])
    assert ours("list", "-q").check().text == f"{own}\n"
    assert json.loads(ours("state", own).check().text)["status"] == "running"

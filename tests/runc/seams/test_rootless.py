"""Without privileges: the command called by a user, and by the root of a user namespace, as engines of users are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.harness.command import as_user
from tests.harness.terminal import Terminal
from tests.runc.command.runtime import Runtime
from tests.runc.command.transcript import Transcript
from tests.runc.seams.conftest import PROGRAMS
from wherry.runc.state import directory_of

#: What runc says otherwise, and why ours does not.
_RUNCS_OWN = {
    # The error that follows says what is wrong.
    r'time="<time>" level=warning msg="(runc [a-z]+|ps|Setting back|unable to get oom kill count).*\n': "",
    # A path that is empty tells nobody anything.
    r"all container pids: lstat : no such file or directory": "all container pids: it has no cgroup of its own",
    # Ours says which user, and which of its two steps.
    r"unable to setup user: cannot set uid to unmapped user in user namespace": "unable to become user 5:0: invalid "
    "argument",
    r"unable to setup user: cannot set any additional groups in a rootless container": "additionalGids: this user "
    "namespace may not set groups",
}


@pytest.fixture
def runtimes(user: int, place: Path) -> Iterator[dict[str, Runtime]]:
    """Both, called by the user."""
    made = {name: Runtime(program, place / name, user=user) for name, program in PROGRAMS.items()}
    for runtime in made.values():
        runtime.directory.mkdir()
        os.chown(runtime.directory, user, user)
    yield made
    for runtime in made.values():
        runtime.close()


@pytest.fixture(params=PROGRAMS)
def runtime(request: pytest.FixtureRequest, runtimes: dict[str, Runtime]) -> Runtime:
    """Each of both: what is expected of ours is what runc does."""
    return runtimes[request.param]


def _life(runtime: Runtime) -> list[str]:
    id = runtime.configure("sleep", "1000")
    at = Transcript(runtime, id, ours=_RUNCS_OWN)
    call = at.call
    bundle = ("--bundle", str(runtime.bundle))
    call("list")
    call("create", *bundle, id, detached=True)
    call("create", *bundle, id, detached=True)
    for words in ("state", "ps", "start", "start"):
        call(words, id)
    call("list")
    call("list", "--format", "json")
    call("exec", id, "sh", "-c", "id; echo $PPID; cat; exit 3", input=b"given\n")
    call("exec", id, "sh", "-c", "kill -9 $$")
    call("exec", id, "nonsense")
    call("exec", "--cwd", "/nonexistent", id, "true")
    call("exec", "--user", "5", id, "id")
    call("exec", "--additional-gids", "5", id, "id")
    call("exec", "--cwd", "/bin", "--env", "A=b", id, "sh", "-c", "pwd; echo $A; ls /proc/self/ns")
    call("exec", "--detach", id, "sleep", "1000", detached=True)
    for words in ("ps", "ps --format json", "pause", "resume", "state", "update --pids-limit 50", "events --stats"):
        call(*words.split(), id)
    call("delete", id)
    call("kill", id, "WINCH")
    call("kill", id, "KILL")
    runtime.wait_for(id, "stopped")
    for words in ("state", "exec", "start", "kill", "delete", "delete", "delete --force"):
        call(*words.split(), id)
    failing = runtime.configure("nonsense")
    after = Transcript(runtime, failing, ours=_RUNCS_OWN)
    after.call("run", *bundle, failing)
    after.call("list", "-q")
    return at.lines + after.lines


def test_life(runtimes: dict[str, Runtime]) -> None:
    theirs, own = (_life(runtimes[name]) for name in PROGRAMS)
    different = [f"runc: {left}ours: {right}" for left, right in zip(theirs, own, strict=True) if left != right]
    assert different == []


def test_run(runtime: Runtime) -> None:
    """In the foreground: what it is inside, and what it has of the host."""
    id = runtime.configure("sh", "-c", "cat; id; cat /proc/self/uid_map; echo problem >&2; exit 3")
    ran = runtime("run", "--bundle", runtime.bundle, id, input=b"given\n")
    assert (ran.code, ran.error_text) == (3, "problem\n")
    given, who, *maps = ran.text.splitlines()
    assert (given, who) == ("given", "uid=0 gid=0")
    assert [line.split() for line in maps] == [["0", str(runtime.user), "1"]]


def test_terminals(runtime: Runtime) -> None:
    id = runtime.configure("sh", "-c", "echo there; read line; stty size; exit $line", terminal=True)
    with Terminal([*runtime.command, "run", "--bundle", runtime.bundle, id], rows=33, columns=77) as terminal:
        terminal.read_until("there\r\n")
        with Terminal([*runtime.command, "exec", "--tty", id, "sh", "-c", "read line; exit $line"]) as further:
            further.enter("4\r")
            assert further.wait() == 4
        terminal.enter("5\r")
        terminal.read_until("33 77\r\n")
        assert terminal.wait() == 5


def test_exec_before_the_start(runtimes: dict[str, Runtime]) -> None:
    """Its process is still a copy of ours, which nobody without privileges may look into."""
    runtime = runtimes["wherry-runc"]
    id = runtime.configure("sleep", "1000")
    runtime.detached("create", "--bundle", runtime.bundle, id).check()
    refused = runtime("exec", id, "true")
    assert refused.code == 255 and "start it first" in refused.error_text


def test_cgroups_of_others(runtimes: dict[str, Runtime]) -> None:
    """A container that got no cgroup has none by its name either, which may be anybody's."""
    runtime = runtimes["wherry-runc"]
    id = runtime.configure("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", runtime.bundle, id).check()
    assert json.loads(Path(directory_of(str(runtime.root), id), "wherry.json").read_text())["cgroup"] == {}


# -- by root of a user namespace ---------------------------------------------------------------------------------------


@pytest.fixture
def engine(runtime: Runtime) -> Iterator[Runtime]:
    """As an engine of a user calls it: by root of a user namespace with one user, where no group may be set."""
    keeper = [*as_user(runtime.user), "unshare", "--user", "--map-root-user", "sh", "-c", "echo made; exec sleep 1000"]
    with subprocess.Popen(keeper, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"made\n"
            runtime.within = ("nsenter", "--user", "--preserve-credentials", f"--target={process.pid}")
            yield runtime
            for id in runtime.ids:
                runtime("delete", "--force", id)
        finally:
            process.kill()


def _configure(engine: Runtime, groups: Sequence[int] = (), **namespaces: str) -> str:
    """Write a bundle for a container that has no user namespace of its own, and others of the given paths."""
    id = engine.configure("sleep", "1000")
    path = engine.bundle / "config.json"
    document = json.loads(path.read_text())
    document["process"]["user"]["additionalGids"] = list(groups)
    linux = document["linux"]
    del linux["uidMappings"], linux["gidMappings"]
    linux["namespaces"] = [
        {"type": each["type"], "path": namespaces.get(each["type"], "")}
        for each in linux["namespaces"]
        if each["type"] != "user"
    ]
    path.write_text(json.dumps(document))
    engine.detached("run", "--detach", "--bundle", engine.bundle, id).check()
    return id


def test_in_a_user_namespace(engine: Runtime) -> None:
    """Groups of /etc/group, which an engine asks for, are not to be had there."""
    id = _configure(engine, groups=(10, 20))
    executed = engine("exec", id, "sh", "-c", "id; exit 3")
    assert (executed.code, executed.text) == (3, "uid=0 gid=0\n")
    executed = engine("exec", id, "nonsense")
    assert executed.code == 255 and "executable file not found in $PATH" in executed.error_text
    engine("kill", id, "KILL").check()
    engine.wait_for(id, "stopped")
    engine("delete", id).check()


def test_pid_namespace_of_another(engine: Runtime) -> None:
    """As in a pod. That of the host is not to be had back, so that another process has to enter it."""
    first = _configure(engine)
    pid = json.loads(engine("state", first).text)["pid"]
    second = _configure(engine, pid=f"/proc/{pid}/ns/pid")
    assert "sleep 1000" in engine("exec", second, "cat", "/proc/1/cmdline").check().text.replace("\0", " ")
    # It has no cgroup of which all could be killed.
    engine("kill", second, "KILL").check()
    engine.wait_for(second, "stopped")
    engine("delete", second).check()
    assert json.loads(engine("state", first).text)["status"] == "running"

"""What a container can get of the runtime's: descriptors, working directories, the process before its program."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.runc.security.laboratory import DOCKER_CAPABILITIES, Laboratory
from wherry.linux.capabilities import mask

_SETS = ("bounding", "effective", "permitted")


def _capabilities(*more: str) -> dict[str, list[str]]:
    return {kind: [*DOCKER_CAPABILITIES, *more] for kind in _SETS}


def _fds(output: str) -> dict[int, str]:
    lines = [line.split(" ", 3) for line in output.splitlines() if line.startswith("fd ")]
    return {int(line[1]): line[3] for line in lines}


@pytest.mark.parametrize("without", [(), ("closing",)])
def test_no_descriptor_of_the_host_is_left_to_the_program(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    bundle = laboratory.bundle()
    leaked = os.open(bundle / "host", os.O_RDONLY | os.O_DIRECTORY)
    try:
        seen = _fds(laboratory.run(bundle, without=without, pass_fds=[leaked]).output)
    finally:
        os.close(leaked)
    assert (sorted(seen) == [0, 1, 2]) == (not without), seen


_NUMBERS = range(3, 12)


@pytest.mark.parametrize(
    ("without", "escapes"),
    [((), False), (("closing",), False), (("check_cwd",), False), (("closing", "check_cwd"), True)],
    ids=["both defences", "descriptors left open", "cwd not checked", "neither"],
)
@pytest.mark.parametrize("how", ["create", "exec"])
def test_working_directory_of_a_leaked_descriptor(
    laboratory: Laboratory, without: tuple[str, ...], escapes: bool, how: str
) -> None:
    """CVE-2024-21626: either defence is enough."""
    bundle = laboratory.bundle()
    leaked = os.open(bundle / "host", os.O_RDONLY | os.O_DIRECTORY)
    attack: dict[str, Any] = {
        "args": ["/bin/sh", "-c", "cat ./canary && echo"],
        "cwd": f"/proc/self/fd/{leaked}",
        "user": {"uid": 0, "gid": 0},
    }
    try:
        if how == "create":
            bundle = laboratory.bundle({f"process.{name}": value for name, value in attack.items()})
            without = (*without, "made_cwd")  # which refuses it as well
            outcome = laboratory.run(bundle, without=without, pass_fds=[leaked])
            said = outcome.output
        else:
            bundle = laboratory.bundle({"process.args": ["/attacker", "sleep", "10"]})
            output = str(bundle / "exec.output")
            steps = ["create", "start", {"exec": attack, "output": output}]
            outcome = laboratory.run(bundle, without=without, steps=steps, pass_fds=[leaked])
            said = outcome.outputs.get("exec.output", "")
    finally:
        os.close(leaked)
    escaped = "alive" in said
    assert escaped == escapes, (outcome.answer, said)
    if not escapes:
        assert outcome.is_clear and ("cwd" in outcome.error or "working directory" in outcome.error), outcome.answer


def _watch(laboratory: Laboratory, changes: dict[str, Any], *without: str) -> list[str]:
    """Exec into a container that watches for it, and return what it got of the process before its program ran."""
    return [line for line in _look(laboratory, changes, *without) if line.startswith("took")]


def _look(laboratory: Laboratory, changes: dict[str, Any], *without: str, **more: Any) -> list[str]:
    """Exec into a container that watches for it, and return all that it has to say."""
    bundle = laboratory.bundle({"process.args": ["/attacker", "watch", "15"], **changes})
    document: dict[str, Any] = {
        "args": ["/attacker", "ids"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "capabilities": changes.get("process.capabilities", _capabilities()),
        **more,
    }
    steps = [
        *("create", "start", {"await": "watching"}),
        {"exec": document, "output": str(bundle / "exec.output")},
        {"touch": str(bundle / "rootfs/stop")},
        "wait",
    ]
    outcome = laboratory.run(bundle, without=without, steps=steps)
    lines = sorted(set(outcome.output.splitlines()))
    assert "watching " in lines, (outcome.output, outcome.answer)
    if "CAP_SYS_PTRACE" not in document["capabilities"]["bounding"] or "linux.uidMappings" in changes:
        assert "met wherry-runc:in" in outcome.output, (outcome.output, outcome.answer)
        assert "took" in outcome.output or "refused ptrace Operation not permitted" in outcome.output
    return lines


#: A watcher has a moment to win, and on a busy machine may miss it.
_ROUNDS = 5


def _succeeds(laboratory: Laboratory, changes: dict[str, Any], *without: str) -> bool:
    """Tell whether the attack succeeds, at one time of several."""
    wanted = {"took mem ", "took ptrace "}
    return any(wanted <= set(_watch(laboratory, changes, *without)) for _ in range(_ROUNDS))


_USER_NAMESPACE = {
    "linux.namespaces+": [{"type": "user"}],
    "linux.uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
    "linux.gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
}


@pytest.mark.parametrize("moment", ["slow_exec", "slow_entry"])
def test_exec_out_of_reach(laboratory: Laboratory, moment: str) -> None:
    """CVE-2016-9962: root of the container's, with the same capabilities, sees nothing of who is about to join it."""
    assert _watch(laboratory, {"process.capabilities": _capabilities()}, moment) == []


def test_exec_within_reach_if_it_is_dumpable(laboratory: Laboratory) -> None:
    assert _succeeds(laboratory, {"process.capabilities": _capabilities()}, "dumpable", "slow_exec")


@pytest.mark.parametrize("moment", ["slow_exec", "slow_entry"])
def test_exec_out_of_reach_of_a_tracer(laboratory: Laboratory, moment: str) -> None:
    """The same for one that has CAP_SYS_PTRACE and all others in a user namespace of its own."""
    changes = {"process.capabilities": _capabilities("CAP_SYS_PTRACE", "CAP_SYS_ADMIN"), **_USER_NAMESPACE}
    assert _watch(laboratory, changes, moment) == []


@pytest.mark.parametrize("moment", ["slow_exec", "slow_entry"])
def test_exec_within_reach_of_a_tracer_if_it_is_dumpable(laboratory: Laboratory, moment: str) -> None:
    changes = {"process.capabilities": _capabilities("CAP_SYS_PTRACE", "CAP_SYS_ADMIN"), **_USER_NAMESPACE}
    assert _succeeds(laboratory, changes, "dumpable_always", moment)


@pytest.mark.parametrize("without", [(), ("dumpable",)])
def test_created_container_out_of_reach(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """One that shares its pid namespace sees neither the gate nor anything else of a process that waits at it."""
    waiting = laboratory.bundle({"process.capabilities": _capabilities()})
    intruder = laboratory.bundle(
        {"process.args": ["/attacker", "intrude", "1"], "process.capabilities": _capabilities()}
    )
    join = {"create": True, "join": ["pid"], "bundle": str(intruder), "id": f"{laboratory.name}-intruder"}
    outcome = laboratory.run(waiting, without=without, steps=["create", join, "start", "wait"])
    taken = [line for line in outcome.output.splitlines() if line.startswith("took")]
    assert bool(taken) == bool(without), outcome.output
    if without:
        assert any("/start." in line for line in taken), outcome.output  # the gate
    else:
        assert "refused ptrace Operation not permitted" in outcome.output, (outcome.output, outcome.answer)


def _lent(taken: list[str], held: int) -> list[str]:
    """Return what a tracer gets by a process that it traces and has not itself; `held` are the capabilities it has."""
    more = []
    for line in taken:
        words = line.split()
        if line.startswith("status Cap"):
            lends = bool(int(words[2], 16) & ~held)
        elif line.startswith("status Seccomp:"):
            lends = words[2] != "2"
        elif line.startswith("took fd"):
            lends = int(words[2]) > 2
        else:
            lends = line.startswith(("took namespace", "took foreign root"))
        if lends:
            more.append(line)
    # What becomes the program has one descriptor more, by which it tells that it could not.
    channel = [line for line in more if "-> socket:" in line]
    return [line for line in more if line not in channel] + channel[1:]


#: A filter that lets everything pass but says that it is there.
_FILTER = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["swapoff"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
}
_TRACER = _capabilities("CAP_SYS_PTRACE")


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("moment", ["slow_exec", "slow_entry"])
def test_tracer_of_the_host_gains_nothing(laboratory: Laboratory, moment: str, no_new_privileges: bool) -> None:
    """CAP_SYS_PTRACE without a user namespace traces all that it can name: what it can name is no more than it is."""
    changes = {
        "process.capabilities": _TRACER,
        "process.noNewPrivileges": no_new_privileges,
        "linux.seccomp": _FILTER,
    }
    held, _unknown = mask(_TRACER["bounding"])
    for _ in range(2):
        taken = _look(laboratory, changes, moment, noNewPrivileges=no_new_privileges)
        assert _lent(taken, held) == [], taken
        if moment == "slow_exec":
            assert "took ptrace " in taken  # it could, and got nothing by it


@pytest.mark.parametrize("moment", ["slow_exec", "slow_entry"])
def test_tracer_of_the_host_gains_all_without_a_stage(laboratory: Laboratory, moment: str) -> None:
    held, _unknown = mask(_TRACER["bounding"])
    changes = {"process.capabilities": _TRACER, "linux.seccomp": _FILTER}
    # At its entry it has everything; right before its program no filter, if that comes last.
    wanted = "status CapEff" if moment == "slow_entry" else "status Seccomp"
    for _ in range(_ROUNDS):
        taken = _look(laboratory, changes, "stage", moment, noNewPrivileges=True)
        if "took ptrace " in taken and any(line.startswith(wanted) for line in _lent(taken, held)):
            return
    raise AssertionError(taken)


@pytest.mark.parametrize(("without", "owner"), [((), 0), (("dumpable_always",), 100000)])
def test_created_container_is_not_dumpable(laboratory: Laboratory, without: tuple[str, ...], owner: int) -> None:
    """Seen from outside: files in /proc/PID are root's for as long as a process is not dumpable, proc(5)."""
    bundle = laboratory.bundle(_USER_NAMESPACE)
    outcome = laboratory.run(bundle, without=without, steps=["create", "owner", "start", "wait"])
    assert outcome.answer["owner"] == owner

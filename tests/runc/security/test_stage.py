"""The stage that makes an exec'ed process where the container may trace it: what else it might have changed."""

from __future__ import annotations

import resource
import time
from typing import Any

import pytest

from tests.runc.security.laboratory import DOCKER_CAPABILITIES, Laboratory, Outcome
from wherry.linux.capabilities import mask

_SETS = ("bounding", "effective", "permitted")
_ORDINARY = dict.fromkeys(_SETS, DOCKER_CAPABILITIES)
_TRACER = {kind: [*DOCKER_CAPABILITIES, "CAP_SYS_PTRACE"] for kind in _SETS}


def _document(*args: str, **more: Any) -> dict[str, Any]:
    return {"args": list(args), "cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities": _ORDINARY, **more}


def _exec(
    laboratory: Laboratory, document: dict[str, Any], changes: dict[str, Any] | None = None, *without: str
) -> Outcome:
    """Exec into a container that may trace, and sleeps meanwhile."""
    ours = {"process.args": ["/attacker", "sleep", "20"], "process.capabilities": _TRACER, **(changes or {})}
    bundle = laboratory.bundle(ours)
    steps = ["create", "start", {"await": "sleeping"}, {"exec": document, "output": str(bundle / "exec.output")}]
    return laboratory.run(bundle, steps=steps, without=without)


def _said(outcome: Outcome) -> str:
    assert not outcome.error and outcome.answer["codes"] == [0], outcome.answer
    return outcome.outputs["exec.output"]


def test_one_process_more_is_all_that_the_cgroup_has_to_allow(laboratory: Laboratory) -> None:
    """A process that joins is not held up by the limit; one that is forked in there would be."""
    changes = {"linux.resources.pids": {"limit": 1}}
    assert _said(_exec(laboratory, _document("/attacker", "ids"), changes)) == "ids 0:0\n"


@pytest.mark.parametrize("hard", [1, resource.getrlimit(resource.RLIMIT_NPROC)[1]])
def test_limit_of_processes(laboratory: Laboratory, hard: int) -> None:
    """One process is allowed: the stage, of the same user, does not count."""
    limits = [{"type": "RLIMIT_NPROC", "soft": 1, "hard": hard}]
    document = _document("/bin/cat", "/proc/self/limits", user={"uid": 54321, "gid": 5}, rlimits=limits)
    (line,) = [line for line in _said(_exec(laboratory, document)).splitlines() if line.startswith("Max processes")]
    assert line.split()[2:4] == ["1", str(hard)]


def test_policy_that_a_fork_resets(laboratory: Laboratory) -> None:
    scheduler = {"policy": "SCHED_OTHER", "nice": -3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    fields = _said(_exec(laboratory, _document("/bin/cat", "/proc/self/stat", scheduler=scheduler))).split()
    assert fields[18] == "-3"


def test_session_and_parent(laboratory: Laboratory) -> None:
    """It leads its session and group, as any process that is exec'ed, and its parent is not in there."""
    fields = _said(_exec(laboratory, _document("/bin/cat", "/proc/self/stat"))).split()
    assert fields[3] == "0" and fields[0] == fields[4] == fields[5]


def test_stage_that_is_killed(laboratory: Laboratory) -> None:
    began = time.monotonic()
    outcome = _exec(laboratory, _document("/attacker", "ids"), {}, "killed_stage")
    assert outcome.error and outcome.outputs["exec.output"] == "", outcome.answer
    assert time.monotonic() - began < 10


def test_message_of_a_tracer(laboratory: Laboratory) -> None:
    outcome = _exec(laboratory, _document("/attacker", "ids"), {}, "forged_message")
    assert "taken hold" in outcome.error, outcome.answer


def _lends(output: str) -> bool:
    """Tell whether a watcher has met capabilities that its container has not."""
    held, _unknown = mask(_TRACER["bounding"])
    sets = [line.split() for line in output.splitlines() if line.startswith("status Cap")]
    return any(int(each[2], 16) & ~held for each in sets)


@pytest.mark.parametrize("without", [(), ("stage",)])
def test_tracer_that_was_execed(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """The container's own process may not trace; one that was exec'ed into it later may."""
    bundle = laboratory.bundle({"process.args": ["/attacker", "sleep", "20"], "process.capabilities": _ORDINARY})
    watching = str(bundle / "exec.watching")
    watcher = _document("/attacker", "watch", "10", capabilities=_TRACER)
    steps = [
        *("create", "start", {"await": "sleeping"}),
        {"exec": watcher, "output": watching, "wait": False},
        {"await": "watching", "output": watching},
        {"exec": _document("/attacker", "ids"), "output": str(bundle / "exec.output")},
    ]
    outcome = laboratory.run(bundle, steps=steps, without=(*without, "slow_entry"))
    assert _lends(outcome.outputs["exec.watching"]) == bool(without), outcome.outputs


@pytest.mark.parametrize("without", [(), ("stage",)])
def test_tracer_in_a_joined_namespace(laboratory: Laboratory, without: tuple[str, ...]) -> None:
    """The container that is exec'ed into may not trace; one in the pid namespace that it has joined may."""
    sleeping = {"process.args": ["/attacker", "sleep", "20"], "process.capabilities": _ORDINARY}
    bundle, other = laboratory.bundle(sleeping), laboratory.bundle(sleeping)
    asleep, watching = str(bundle / "exec.asleep"), str(bundle / "exec.watching")
    join = {"create": True, "join": ["pid"], "bundle": str(other), "id": f"{laboratory.name}-o", "output": asleep}
    watcher = _document("/attacker", "watch", "10", capabilities=_TRACER)
    steps = [
        *("create", "start", {"await": "sleeping"}),
        *(join, "start", {"await": "sleeping", "output": asleep}),
        {"exec": watcher, "output": watching, "wait": False, "container": 0},
        {"await": "watching", "output": watching},
        {"exec": _document("/attacker", "ids"), "output": str(bundle / "exec.output"), "container": 1},
    ]
    outcome = laboratory.run(bundle, steps=steps, without=(*without, "slow_entry"))
    assert _lends(outcome.outputs["exec.watching"]) == bool(without), outcome.outputs

"""Rules of devices and the lines that lead from one policy to another, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Unknown
from wherry.runc.cgroups.device_filter import compile_policy
from wherry.runc.cgroups.devices import ANY, DevicePolicy, parse_list, policy

_NUMBERS = st.sampled_from([ANY, 1, 2])
_RULES = st.lists(
    st.fixed_dictionaries(
        {
            "allow": st.booleans(),
            "type": st.sampled_from(["c", "b", "c", "b", "c", "b", "a"]),
            "major": _NUMBERS,
            "minor": _NUMBERS,
            "access": st.sampled_from(["r", "w", "m", "rw", "rwm"]),
        }
    ),
    max_size=6,
)


class _Kernel:
    """The devices controller's own rules: Documentation/admin-guide/cgroup-v1/devices.rst."""

    def __init__(self, start: DevicePolicy) -> None:
        self.allow = start.allow
        self.exceptions = {device: set(access) for device, access in start.exceptions.items()}

    def write(self, file: str, line: str) -> None:
        allow = file == "devices.allow"
        if line == "a":
            self.allow, self.exceptions = allow, {}
            return
        kind, numbers, access = line.split()
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        present = self.exceptions.setdefault((kind, major, minor), set())
        if allow is self.allow:
            present.difference_update(access)
        else:
            present.update(access)
        if not present:
            del self.exceptions[kind, major, minor]


def _policy(rules: list[dict[str, Any]]) -> DevicePolicy | None:
    try:
        return policy(rules)
    except Unknown:
        return None  # a hole in a wildcard


@given(_RULES, _RULES)
def test_lines_lead_there(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    start, wanted = _policy(first), _policy(second)
    if start is None or wanted is None:
        return
    kernel = _Kernel(start)
    for file, line in wanted.lines_from(start):
        kernel.write(file, line)
        if start.allow is wanted.allow and not wanted.allow:
            for device, access in start.exceptions.items():
                kept = access & wanted.exceptions.get(device, frozenset())
                assert kept <= kernel.exceptions.get(device, set()), "what both allow was taken away in between"
    assert kernel.allow is wanted.allow
    assert kernel.exceptions == {device: set(access) for device, access in wanted.exceptions.items()}
    assert wanted.lines_from(wanted) == []


@given(_RULES)
def test_programs_end(rules: list[dict[str, Any]]) -> None:
    """Every jump of a program goes forward, and to an instruction of it."""
    wanted = _policy(rules)
    if wanted is None:
        return
    program = compile_policy(wanted)
    count = len(program) // 8
    for index in range(count):
        offset = int.from_bytes(program[index * 8 + 2 : index * 8 + 4], "little")
        if program[index * 8] & 7 in (5, 6) and program[index * 8] != 0x95:
            assert 0 < offset < count - index - 1
    assert program[-8] == 0x95


def test_the_kernel_s_list() -> None:
    assert parse_list("a *:* rwm\n").allow
    found = parse_list("c 1:3 rwm\nb *:* m\n")
    assert found.exceptions == {("c", 1, 3): frozenset("rwm"), ("b", ANY, ANY): frozenset("m")}


def test_a_running_container_keeps_what_it_has() -> None:
    before = policy([{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}])
    after = policy([{"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}])
    assert after.lines_from(before) == [("devices.allow", "c 10:229 m")]
    assert before.lines_from(after) == [("devices.deny", "c 10:229 m")]


@pytest.mark.parametrize(
    "rule", [{"type": "p"}, {"type": "c", "access": "rx"}, {"type": "z", "access": "r"}, {"type": "u"}]
)
def test_no_rules(rule: dict[str, Any]) -> None:
    with pytest.raises(Unknown):
        policy([{"allow": True, **rule}])

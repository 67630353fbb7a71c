"""The same bundle run by Debian's runc and by wherry-runc: what the process inside finds, and what is said outside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.runc.differential import (
    cases_cgroups,
    cases_devices,
    cases_errors,
    cases_exec,
    cases_generated,
    cases_hooks,
    cases_mounts,
    cases_namespaces,
    cases_newer,
    cases_process,
    cases_seccomp,
    cases_terminals,
)
from tests.runc.differential.cases import Case
from tests.runc.differential.explained import OTHERWISE, differences
from tests.runc.differential.side import Laboratory

_SUBJECTS = (
    cases_cgroups,
    cases_devices,
    cases_errors,
    cases_exec,
    cases_generated,
    cases_hooks,
    cases_mounts,
    cases_namespaces,
    cases_newer,
    cases_process,
    cases_seccomp,
    cases_terminals,
)
CASES = [case for subject in _SUBJECTS for case in subject.CASES]
assert len({case.name for case in CASES}) == len(CASES)

_HYBRID = not Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _failed(seen: dict[str, Any]) -> bool:
    return not any(name.startswith("probe.") for name in seen)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(case: Case, laboratory: Laboratory, our_runtime: str, request: pytest.FixtureRequest) -> None:
    if case.cgroups and case.cgroups != (1 if _HYBRID else 2):
        pytest.skip(f"needs cgroup v{case.cgroups}")
    if case.peer != "runc" and Path(our_runtime).name == "runc":
        pytest.skip("runc 1.1 does not know it")
    ours = laboratory.run(our_runtime, case)
    if case.name in OTHERWISE:
        same = _failed(ours) is _failed(laboratory.run("runc", case))
        assert not same or Path(our_runtime).name == "runc", f"not otherwise any more: {OTHERWISE[case.name]}"
        return
    assert case.fails in (_failed(ours), None), f"{ours.get('code')} {ours.get('errors')} {ours.get('output')}"
    wrong = [
        f"{name}: {ours.get(name)!r}, not {value!r}" for name, value in case.expect.items() if ours.get(name) != value
    ]
    assert not wrong, "\n".join(wrong)
    if not case.peer:
        return
    theirs = laboratory.run("runc" if case.peer == "runc" else request.getfixturevalue(case.peer), case)
    fails = _failed(theirs)
    assert case.fails in (fails, None), f"{case.peer}: {theirs.get('code')} {theirs.get('errors')}"
    if case.only:
        theirs, ours = ({name: seen[name] for name in seen if re.search(case.only, name)} for seen in (theirs, ours))
        assert theirs, f"{case.peer} has no field {case.only}"
    if fails:
        # How far a container came before it failed is nobody's business.
        left_out = r"^files\." if case.text else r"^files\.|errors$"
        theirs, ours = ({name: seen[name] for name in seen if not re.search(left_out, name)} for seen in (theirs, ours))
    found = differences(case.name, theirs, ours)
    assert not found, f"{len(found)} differ from {case.peer}:\n" + "\n".join(found)

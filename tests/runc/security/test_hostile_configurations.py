"""Configurations that are not what they should be: one line of an error, naming what is wrong, and nothing left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.runc.security.laboratory import Laboratory, Outcome


def _config(laboratory: Laboratory, text: bytes) -> Outcome:
    bundle = laboratory.bundle()
    (bundle / "config.json").write_bytes(text)
    return laboratory.run(bundle, steps=["create"])


def _document(laboratory: Laboratory) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((laboratory.bundle() / "config.json").read_text())
    return document


_TEXTS = {
    "nothing": b"",
    "a list": b"[]",
    "a string": b'"text"',
    "NaN": b'{"ociVersion": "1.0.2", "linux": {"resources": {"cpu": {"shares": NaN}}}}',
    "Infinity": b'{"ociVersion": "1.0.2", "linux": {"resources": {"cpu": {"shares": -Infinity}}}}',
    "deep lists": b'{"annotations": ' + b"[" * 100000 + b"]" * 100000 + b"}",
    "deep objects": b'{"annotations": ' + b'{"a":' * 100000 + b"1" + b"}" * 100001,
    "open lists": b"[" * 1000000,
    "no UTF-8": b'{"ociVersion": "\xff\xfe"}',
    "UTF-16": '{"ociVersion": "1.0.2"}'.encode("utf-16"),
    "NUL bytes": b"\0" * 1000,
    "10 MB": b'{"ociVersion": "1.0.2", "hostname": "' + b"a" * 10_000_000 + b'"}',
    "a number of 100,000 digits": b'{"ociVersion": "1.0.2", "process": {"oomScoreAdj": ' + b"9" * 100000 + b"}}",
}


@pytest.mark.parametrize("name", _TEXTS)
def test_text(laboratory: Laboratory, name: str) -> None:
    outcome = _config(laboratory, _TEXTS[name])
    assert outcome.is_clear and len(outcome.error) < 1000, outcome.error[:2000]


@pytest.mark.parametrize("depth", [200, 480, 900, 940, 960, 980, 990])
def test_depth_at_the_edge(laboratory: Laboratory, depth: int) -> None:
    """What can just be read can also be written, or is refused."""
    bundle = laboratory.bundle()
    text = (bundle / "config.json").read_text()
    deep = '{"a":' * depth + "1" + "}" * depth
    (bundle / "config.json").write_text(text[:-1] + f', "unknown": {deep}}}')
    outcome = laboratory.run(bundle)
    assert outcome.is_clear or outcome.answer["codes"] == [0], outcome.answer


@pytest.mark.parametrize(("number", "refused"), [(9_994, True), (200, False)])
def test_many_mounts(laboratory: Laboratory, number: int, refused: bool) -> None:
    mounts = [{"destination": f"/m{index}", "type": "tmpfs", "source": "t"} for index in range(number)]
    outcome = laboratory.run(laboratory.bundle({"mounts+": mounts}))
    assert (outcome.is_clear and "10000" in outcome.error) == refused, outcome.answer


#: An entry of each list and object, so that there is a place for what is wrong.
_PRESENT: dict[str, Any] = {
    "process.user.additionalGids": [1],
    "process.consoleSize": {"height": 1, "width": 1},
    "process.rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}],
    "process.capabilities": {
        kind: ["CAP_KILL"] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
    },
    "process.scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
    "process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    "process.execCPUAffinity": {},
    "mounts": [
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "t",
            "options": ["nosuid"],
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
            "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
        }
    ],
    "annotations": {"a": "b"},
    "hooks": {"startContainer": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 1}]},
    "linux.sysctl": {"kernel.msgmax": "4242"},
    "linux.devices": [{"path": "/dev/odd", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
    "linux.personality": {"domain": "LINUX", "flags": []},
    "linux.maskedPaths": ["/proc/timer_list"],
    "linux.timeOffsets": {"monotonic": {"secs": 1, "nanosecs": 1}},
    "linux.namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "time")],
    "linux.seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {
                "names": ["swapon"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 1,
                "args": [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
            }
        ],
    },
    "linux.resources": {
        "devices": [{"allow": False, "access": "rwm", "type": "c", "major": 1, "minor": 1}],
        "memory": {"limit": 100000000, "swappiness": 10, "disableOOMKiller": False},
        "cpu": {"shares": 100, "quota": 10000, "period": 100000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 100},
        "blockIO": {"throttleReadBpsDevice": []},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "unified": {},
    },
}
_WRONG: list[Any] = ["text", -1, 1 << 70, 1.5, [None], {"a": "b"}]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += _paths(inner, (*path, key))
    return found


def _full(laboratory: Laboratory) -> tuple[Path, dict[str, Any]]:
    changes = {**_PRESENT, "process.args": ["/bin/true"]}
    bundle = laboratory.bundle(changes)
    document: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return bundle, document


def _fuzz(laboratory: Laboratory, bundle: Path, changes: list[tuple[tuple[Any, ...], Any]]) -> list[str]:
    """Return what came of changes that should not have: anything but success or one line of an error."""
    outcome = laboratory.run(bundle, steps=[{"fuzz": changes}])
    assert not outcome.error, outcome.answer
    bad = []
    for (path, value), (kind, message) in zip(changes, outcome.answer["results"], strict=True):
        text = message.strip()
        where = ".".join(str(part) for part in path)
        if kind.startswith("!"):
            bad.append(f"{where} = {value!r}: {text.splitlines()[-1]} <- {text.splitlines()[-3].strip()}")
        elif "\n" in text.replace(str(value), ""):
            bad.append(f"{where} = {value!r}: more than a line: {text!r}")
        elif any(word in text for word in ("Error:", "object has no attribute", "not subscriptable")):
            bad.append(f"{where} = {value!r}: not meant for a user: {text}")
    return bad


def test_the_whole_configuration_is_right(laboratory: Laboratory) -> None:
    """What the others change one field of."""
    bundle, _ = _full(laboratory)
    outcome = laboratory.run(bundle, steps=[{"fuzz": [[["hostname"], "right"]]}])
    assert outcome.answer["results"] == [["", ""]]


@pytest.mark.parametrize("part", range(2))
def test_wrong_types(laboratory: Laboratory, part: int) -> None:
    bundle, document = _full(laboratory)
    changes = [(path, value) for path in _paths(document) for value in _WRONG]
    bad = _fuzz(laboratory, bundle, changes[part::2])
    assert not bad, f"{len(bad)}:\n" + "\n".join(bad)


def test_strings_that_no_system_call_takes(laboratory: Laboratory) -> None:
    bundle, document = _full(laboratory)
    strings = []
    for path in _paths(document):
        value: Any = document
        for part in path:
            value = value[part]
        if isinstance(value, str):
            strings.append(path)
    changes = [(path, value) for path in strings for value in ("nul\0byte", "\ud800 alone", "line\nbreak" + "n" * 5000)]
    bad = _fuzz(laboratory, bundle, changes)
    assert not bad, f"{len(bad)}:\n" + "\n".join(bad)

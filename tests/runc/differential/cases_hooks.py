"""Hooks of each kind: what they are given, where they run, and what becomes of a container when they fail."""

from __future__ import annotations

from typing import Any

from tests.runc.differential.cases import DIR, HOST_ID, Case, user_namespace

_HOST = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
_BEFORE = ("prestart", "createRuntime", "createContainer", "startContainer")


def hook(kind: str, *orders: str, **fields: Any) -> dict[str, Any]:
    """A hook that writes what it is given: on the host to the bundle, in the container to its root."""
    if kind == "startContainer":
        return {"path": "/probe", "args": ["probe", "hook:/hooks", *orders], **fields}
    return {"path": f"{DIR}/probe", "args": ["probe", f"hook:{DIR}/hooks", *orders], **fields}


def _one(name: str, kind: str, hook: dict[str, Any], **others: Any) -> Case:
    return Case(f"hooks/{name}-{kind}", {f"hooks.{kind}": [hook]}, **others)


EACH = (*_HOST, "startContainer")

CASES = [
    *(_one("plain", kind, hook(kind)) for kind in EACH),
    *(_one("environment", kind, hook(kind, env=["A=1", "PATH=/bin", "A=2"])) for kind in EACH),
    *(_one("no-arguments", kind, {"path": f"{DIR}/probe"}) for kind in ("prestart", "poststop")),
    *(_one("exit-3", kind, hook(kind, "exit:3"), fails=True, text=True) for kind in _BEFORE),
    *(_one("exit-3", kind, hook(kind, "exit:3")) for kind in ("poststop",)),
    _one("exit-3", "poststart", hook("poststart", "exit:3"), asked=("sleep:300",), fails=True, text=True),
    *(_one("missing", kind, {"path": "/no/such/hook"}, fails=True, text=True) for kind in _BEFORE),
    *(_one("relative", kind, {"path": "probe"}) for kind in ("prestart", "createRuntime")),
    *(_one("timeout-kept", kind, hook(kind, timeout=10)) for kind in EACH),
    *(
        _one("timeout-passed", kind, hook(kind, "sleep:3000", timeout=1), fails=True, text=True)
        for kind in ("createRuntime", "startContainer")
    ),
    *(
        Case(f"hooks/annotations-{kind}", {f"hooks.{kind}": [hook(kind)], "annotations": {"key": "välue"}})
        for kind in EACH
    ),
    Case("hooks/each", {f"hooks.{kind}": [hook(kind, kind)] for kind in EACH}),
    Case(
        "hooks/each-twice", {f"hooks.{kind}": [hook(kind, kind, "first"), hook(kind, kind, "second")] for kind in EACH}
    ),
    Case("hooks/each-created", {f"hooks.{kind}": [hook(kind, kind)] for kind in EACH}, how="create"),
    Case(
        "hooks/each-in-user-namespace",
        user_namespace(**{f"hooks.{kind}": [hook(kind, kind)] for kind in _HOST}),
        files={"hooks": ""},
        owner=HOST_ID,
    ),
    Case(
        "hooks/second-fails",
        {
            "hooks.createRuntime": [
                hook("createRuntime"),
                hook("createRuntime", "exit:1"),
                hook("createRuntime", "third"),
            ]
        },
        fails=True,
        text=True,
    ),
    Case(
        "hooks/poststop-after-failure",
        {"hooks.createRuntime": [hook("createRuntime", "exit:1")], "hooks.poststop": [hook("poststop", "poststop")]},
        fails=True,
        text=True,
    ),
    Case(
        "hooks/start-fails-created",
        {"hooks.startContainer": [hook("startContainer", "exit:4")]},
        how="create",
        fails=True,
        text=True,
    ),
    Case("hooks/none", {"hooks": {}}),
    Case("hooks/empty", {"hooks": {kind: [] for kind in EACH}}),
    Case(
        "hooks/start-with-user",
        {
            "hooks.startContainer": [hook("startContainer")],
            "process.user": {"uid": 1000, "gid": 1000},
            "process.cwd": "/home/user",
        },
        files={"rootfs/hooks": ""},
    ),
]

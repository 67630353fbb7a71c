"""Terminals: by console socket and in the foreground, their sizes, owners, and what is in /dev."""

from __future__ import annotations

from tests.runc.differential.cases import HOST_ID, MOUNTS, Case, user_namespace

_TERMINAL = {"process.terminal": True}
_SIZE = {**_TERMINAL, "process.consoleSize": {"height": 33, "width": 121}}
_USER = {"uid": 1000, "gid": 1000}
_ASKED = (
    "stat:/dev/console",
    "open:/dev/console",
    "stat:/dev/pts/0",
    "open:/dev/tty",
    "open:/dev/ptmx",
    "write:/dev/pts/0",
)

CASES = [
    Case("terminal/console", _TERMINAL, _ASKED, how="console"),
    Case("terminal/console-size", _SIZE, _ASKED, how="console"),
    Case("terminal/console-size-0", {**_TERMINAL, "process.consoleSize": {"height": 0, "width": 0}}, how="console"),
    Case("terminal/console-of-user", {**_TERMINAL, "process.user": _USER}, _ASKED, how="console"),
    Case("terminal/console-user-namespace", user_namespace(**_TERMINAL), _ASKED, how="console", owner=HOST_ID),
    Case("terminal/console-read-only-root", {**_TERMINAL, "root.readonly": True}, _ASKED, how="console"),
    Case(
        "terminal/console-without-ptmx",
        {**_TERMINAL, "mounts": [MOUNTS[name] for name in ("proc", "dev", "pts")]},
        _ASKED,
        how="console",
    ),
    Case("terminal/console-masked", {**_TERMINAL, "linux.maskedPaths": ["/dev/console"]}, _ASKED, how="console"),
    Case("terminal/foreground", _TERMINAL, _ASKED, how="foreground"),
    Case("terminal/foreground-size", _SIZE, _ASKED, how="foreground"),
    Case("terminal/foreground-of-user", {**_TERMINAL, "process.user": _USER}, _ASKED, how="foreground"),
    Case("terminal/foreground-exit-code", _TERMINAL, ("exit:9",), how="foreground"),
    Case("terminal/foreground-none", {}, how="foreground"),
    Case("terminal/create-without-socket", _TERMINAL, how="create", fails=True, text=True),
    Case("terminal/socket-without-terminal", {}, how="console", fails=True, text=True),
    Case("terminal/run-without-terminal-of-its-own", _TERMINAL, fails=True, text=True),
    Case("create/plain", how="create"),
    Case("create/annotations", {"annotations": {"b": "2", "a": "1"}}, how="create"),
    Case("create/not-found", {"process.args": ["no-such-program"]}, how="create", fails=True, text=True),
    Case("create/path-not-found", {"process.args": ["/no/such/program"]}, how="create", fails=True, text=True),
    Case("create/not-executable", {"process.args": ["/etc/passwd"]}, how="create", fails=True, text=True),
    Case(
        "create/no-interpreter",
        {"process.args": ["/script"]},
        files={"rootfs/script": "#!/no/shell\n", "rootfs/home/x": "-> /script"},
        how="create",
        fails=True,
        text=True,
    ),
]

"""`wherry-runc create`."""

from __future__ import annotations

from wherry.runc.command.command import Command
from wherry.runc.command.launch import (
    BUNDLE,
    CONSOLE_SOCKET,
    NO_NEW_KEYRING,
    NO_PIVOT,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    check_terminal,
    create_options,
    enter_bundle,
    pid_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "make a container, to be started later",
    "ID",
    "Make a container from a bundle: a directory with a config.json and a root file system. Everything is prepared up\n"
    "to its program, which begins with `start`. It has this command's standard streams, or a terminal of its own that\n"
    "goes to --console-socket.",
    (BUNDLE, CONSOLE_SOCKET, PIDFD_SOCKET, PID_FILE, NO_PIVOT, NO_NEW_KEYRING, PRESERVE_FDS),
    failure="runc create failed",
)


def run(call: Call) -> int:
    file = pid_file(call)
    spec = enter_bundle(call)
    process = spec.get("process") or {}
    check_terminal(call, process, detach=True)
    options = create_options(call, file)
    from wherry.runc.create import create

    create(call.settings.root, call.id, spec, options)
    return 0

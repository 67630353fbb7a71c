"""`wherry-runc run`."""

from __future__ import annotations

from wherry.errors import Error
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag
from wherry.runc.command.launch import (
    BUNDLE,
    CONSOLE_SOCKET,
    DETACH,
    NO_NEW_KEYRING,
    NO_PIVOT,
    NO_SUBREAPER,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    check_terminal,
    create_options,
    enter_bundle,
    host_root,
    pid_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call
    from wherry.runc.command.notify import Notification
    from wherry.runc.container import Container
    from wherry.runc.create import CreateOptions

COMMAND = Command(
    "make a container and start it",
    "ID",
    "Make a container from a bundle and start it. In the foreground its input and output are this command's, signals\n"
    "are handed on to it, and its exit code is this command's; then it is deleted. With --detach it is left to itself.",
    (
        BUNDLE,
        CONSOLE_SOCKET,
        DETACH,
        Flag("keep", "do not delete the container at its end", SWITCH),
        PID_FILE,
        PIDFD_SOCKET,
        NO_SUBREAPER,
        NO_PIVOT,
        NO_NEW_KEYRING,
        PRESERVE_FDS,
    ),
    failure="runc run failed",
)


def run(call: Call) -> int:
    file = pid_file(call)
    spec = enter_bundle(call)
    process = spec.get("process") or {}
    detach = call.values.switch("detach")
    check_terminal(call, process, detach=detach)
    options = create_options(call, file)
    if not detach:
        return _run_here(call, spec, options)
    from wherry.runc.create import create

    container = create(call.settings.root, call.id, spec, options)
    notification = _start(call, container)
    if notification is not None:
        notification.wait(container, call.settings.log)
    return 0


def _start(call: Call, container: Container) -> Notification | None:
    """Start a container; what its process tells of its being ready comes to what is returned, if anybody wants it."""
    notification = None
    try:
        if call.settings.notify_socket:
            from wherry.runc.command.notify import Notification

            notification = Notification(container.directory, call.settings.notify_socket)
        container.start()
    except Error:
        container.delete(force=True)
        raise
    return notification


def _run_here(call: Call, spec: dict[str, Any], options: CreateOptions) -> int:
    from wherry.runc.command.foreground import Foreground
    from wherry.runc.create import create

    reaps = not call.values.switch("no-subreaper")
    foreground = Foreground(spec.get("process") or {}, call.settings.log, root=host_root(spec), reaps=reaps)
    try:
        options.stdio = foreground.stdio
        options.console_socket = foreground.console_socket
        container = create(call.settings.root, call.id, spec, options)
        try:
            foreground.attach(container.pid)
        except Error:
            container.delete(force=True)
            raise
        foreground.notification = _start(call, container)
        status = foreground.wait()
    finally:
        foreground.close()
    if not call.values.switch("keep") and (failed := container.delete()):
        call.settings.log.error(failed)
    return status

"""`wherry-runc restore`."""

from __future__ import annotations

import os

from wherry.errors import Error, Unknown
from wherry.runc.command.checkpoint import COMMON, IMAGES, WORK, criu_options
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag
from wherry.runc.command.launch import (
    BUNDLE,
    CONSOLE_SOCKET,
    DETACH,
    NO_SUBREAPER,
    PID_FILE,
    check_terminal,
    enter_bundle,
    host_root,
    pid_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.checkpoint import CriuOptions
    from wherry.runc.command.command import Call
    from wherry.runc.create import CreateOptions

COMMAND = Command(
    "make a container of a checkpoint's files, with CRIU",
    "ID",
    "Make a container whose processes go on where `checkpoint` has written them, from its images and a bundle like\n"
    "that of the first container. Takes the program criu.",
    (
        CONSOLE_SOCKET,
        IMAGES,
        WORK,
        *COMMON,
        BUNDLE,
        DETACH,
        PID_FILE,
        NO_SUBREAPER,
        Flag("no-pivot", "accepted for runc's callers: criu enters the root in its own way", SWITCH, hidden=True),
        Flag("lsm-profile", "the profile that it gets: TYPE:NAME, apparmor or selinux"),
        Flag("lsm-mount-context", "the SELinux context that file systems are mounted with"),
    ),
)


def run(call: Call) -> int:
    if os.geteuid() != 0:
        raise Unknown("restore needs root")
    file, criu = pid_file(call), criu_options(call)
    criu.lsm_profile = call.values.text("lsm-profile")
    criu.lsm_mount_context = call.values.text("lsm-mount-context")
    spec = enter_bundle(call)
    process = spec.get("process") or {}
    detach = call.values.switch("detach")
    check_terminal(call, process, detach=detach)
    from wherry.runc.create import CreateOptions

    options = CreateOptions(
        os.getcwd(),
        pid_file=file,
        console_socket=call.values.text("console-socket"),
        systemd_cgroup=call.settings.systemd_cgroup,
        rootless=call.settings.is_rootless(),
    )
    if not detach:
        return _restore_here(call, spec, options, criu)
    from wherry.runc.checkpoint import restore

    restore(call.settings.root, call.id, spec, options, criu)
    return 0


def _restore_here(call: Call, spec: dict[str, Any], options: CreateOptions, criu: CriuOptions) -> int:
    from wherry.runc.checkpoint import restore
    from wherry.runc.command.foreground import Foreground

    reaps = not call.values.switch("no-subreaper")
    foreground = Foreground(spec.get("process") or {}, call.settings.log, root=host_root(spec), reaps=reaps)
    try:
        options.stdio = foreground.stdio
        options.console_socket = foreground.console_socket
        container = restore(call.settings.root, call.id, spec, options, criu)
        try:
            foreground.attach(container.pid)
        except Error:
            container.delete(force=True)
            raise
        status = foreground.wait()
    finally:
        foreground.close()
    container.delete()
    return status

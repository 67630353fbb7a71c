"""`wherry-runc exec`."""

from __future__ import annotations

from wherry.errors import Unknown
from wherry.oci import json_text
from wherry.runc.command.command import Command
from wherry.runc.command.flags import NUMBERS, SWITCH, TEXTS, Flag
from wherry.runc.command.launch import (
    CONSOLE_SOCKET,
    DETACH,
    PID_FILE,
    PIDFD_SOCKET,
    PRESERVE_FDS,
    check_terminal,
    host_root,
    pid_file,
    preserved_descriptors,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call
    from wherry.runc.command.flags import Values
    from wherry.runc.command.foreground import Foreground
    from wherry.runc.container import Container
    from wherry.runc.exec import ExecOptions, Execution

COMMAND = Command(
    "run another program in a container",
    "ID PROGRAM [ARGUMENTS]  |  --process FILE ID",
    "Run another program in a running container: as config.json says of the first one, but for what the flags change,\n"
    "or as a JSON document of its own says, the `process` of config.json. In the foreground its input, output and\n"
    "exit code are this command's; 255 tells that it could not be run.",
    (
        CONSOLE_SOCKET,
        Flag("cwd", "the working directory, an absolute path"),
        Flag("env", "a variable of its environment, NAME=VALUE; may be repeated", TEXTS, short="e"),
        Flag("tty", "give it a terminal", SWITCH, short="t"),
        Flag("user", "who it is: UID or UID:GID", short="u"),
        Flag("additional-gids", "a further group; may be repeated", NUMBERS, short="g"),
        Flag("process", "a file with the process's document", short="p"),
        DETACH,
        PID_FILE,
        PIDFD_SOCKET,
        Flag("process-label", "its SELinux label"),
        Flag("apparmor", "its AppArmor profile"),
        Flag("no-new-privs", "it cannot gain privileges by running programs", SWITCH),
        Flag("cap", "a capability, CAP_NAME; may be repeated", TEXTS, short="c"),
        PRESERVE_FDS,
        Flag(
            "cgroup", "run it in a cgroup below the container's: [CONTROLLER[,CONTROLLER]:]PATH; may be repeated", TEXTS
        ),
        Flag("ignore-paused", "allow it in a paused container", SWITCH),
    ),
    most=None,
    flags_first=True,
    failure="exec failed",
    failure_code=255,
)

_MAX_ID = (1 << 32) - 1


def run(call: Call) -> int:
    file = pid_file(call)
    container = call.load()
    _check_status(container, call.values)
    process = _process(call, container)
    detach = call.values.switch("detach")
    check_terminal(call, process, detach=detach)
    options = _options(call, file)
    if not detach:
        return _run_here(call, container, process, options)
    from wherry.runc.exec import exec_process

    exec_process(container, process, options)
    return 0


def _check_status(container: Container, values: Values) -> None:
    status = container.status()
    if status == "stopped":
        raise Unknown("cannot exec in a stopped container")
    if status == "paused" and not values.switch("ignore-paused"):
        raise Unknown("cannot exec in a paused container (use --ignore-paused to override)")


def _options(call: Call, pid_file: str) -> ExecOptions:
    from wherry.runc.exec import ExecOptions

    options = ExecOptions(
        pid_file=pid_file,
        console_socket=call.values.text("console-socket"),
        preserve_fds=preserved_descriptors(call),
        cgroups=call.values.texts("cgroup"),
        ignore_paused=call.values.switch("ignore-paused"),
    )
    options.pidfd_socket = call.values.text("pidfd-socket")
    return options


def _run_here(call: Call, container: Container, process: dict[str, Any], options: ExecOptions) -> int:
    from wherry.runc.command.foreground import Foreground
    from wherry.runc.exec import Execution

    foreground = Foreground(process, call.settings.log, root=host_root(container.spec), reaps=False)
    try:
        options.stdio = foreground.stdio
        options.console_socket = foreground.console_socket
        if foreground.console_size:
            process["consoleSize"] = foreground.console_size
        with Execution(container, process, options) as execution:
            execution.begin()
            if options.console_socket:
                _take_terminal(foreground, execution)
            while not execution.advance():
                continue
            foreground.attach(execution.finish())
        return foreground.wait()
    finally:
        foreground.close()


def _take_terminal(foreground: Foreground, execution: Execution) -> None:
    try:
        foreground.take_terminal(execution.fileno())
    except Unknown:
        return  # the process has failed, and tells why on its channel


# -- what is to be run -----------------------------------------------------------------------------------------------


def _process(call: Call, container: Container) -> dict[str, Any]:
    """Return the document of the process. InvalidArgument, Unknown."""
    from wherry.runc.spec import check_process, parse_object

    path = call.values.text("process")
    if path:
        with open(path, "rb") as file:
            process = parse_object(file.read(), path)
    elif len(call.words) < 2:
        raise Unknown("process args cannot be empty")
    else:
        # A copy: what this one changes is not the container's.
        process = json_text.loads(json_text.dumps(container.spec.get("process") or {}))
        process["args"] = call.words[1:]
        _change(process, call.values)
    check_process(process)
    return process


def _change(process: dict[str, Any], values: Values) -> None:
    """Change the container's process to what the flags say. Unknown for a user or a group that is none."""
    for flag, field in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if values.text(flag):
            process[field] = values.text(flag)
    if values.texts("cap"):
        sets = process.setdefault("capabilities", {})
        for name in ("bounding", "effective", "permitted", "ambient"):
            sets[name] = [*(sets.get(name) or ()), *values.texts("cap")]
    process["env"] = [*(process.get("env") or ()), *values.texts("env")]
    process["terminal"] = values.switch("tty")
    if values.has("no-new-privs"):
        process["noNewPrivileges"] = values.switch("no-new-privs")
    user = process.setdefault("user", {})
    if values.text("user"):
        uid, colon, gid = values.text("user").partition(":")
        if colon:
            user["gid"] = _id(gid, "gid")
        user["uid"] = _id(uid, "uid")
    for number in values.numbers("additional-gids"):
        if number < 0:
            raise Unknown(f"additional-gids must be a positive number {number}")
        user["additionalGids"] = [*(user.get("additionalGids") or ()), number]


def _id(text: str, kind: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise Unknown(f'parsing {text} as int for {kind} failed: strconv.Atoi: parsing "{text}": invalid syntax')
    number = int(text)
    if number > _MAX_ID:
        raise Unknown(f"parsing {text} as int for {kind} failed: value out of range")
    return number

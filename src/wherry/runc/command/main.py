"""wherry-runc: runc's command line.

    wherry-runc [global flags] COMMAND [flags] [words]

What a command needs is imported when it is called: a container takes less time to start than all of it.
"""

from __future__ import annotations

import os
import sys

from wherry.errors import Error, InvalidArgument, to_status
from wherry.runc.command.command import Call
from wherry.runc.command.flags import SWITCH, Flag, UsageError, parse
from wherry.runc.command.log import Log
from wherry.runc.command.settings import FLAGS, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.runc.command.command import Command

NAME = "wherry-runc"

#: In the order in which help lists them; the modules have the same names.
COMMANDS = (
    "create", "start", "run", "exec", "kill", "delete", "state", "list", "ps", "pause", "resume", "update", "events",
    "checkpoint", "restore", "spec", "features",
)  # fmt: skip

_VERSION = Flag("version", "print the version", SWITCH, short="v")


def main() -> int:
    """Run the command line and return its exit status: that of the container's process, or runc's."""
    log = Log()
    try:
        try:
            return _main(sys.argv[1:], log)
        finally:
            sys.stdout.flush()
    except UsageError as error:
        log.fatal(str(error))
        return 1
    except BrokenPipeError:
        return 1  # whoever read the output has gone
    except (Error, OSError) as error:
        log.fatal(reason(error))
        return 1
    except Exception as error:  # a fault of ours: callers read the reason in the log, and there alone
        import traceback

        log.debug(traceback.format_exc())
        log.fatal(f"{type(error).__name__}: {error}")
        return 1


def reason(error: BaseException) -> str:
    """Return the words for a failure, as runc would have them: without the kind of an error in what was asked for."""
    if isinstance(error, InvalidArgument):
        return error.message.removesuffix(f": {error.kind}")
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"open {os.fsdecode(error.filename)}: {error.strerror.lower()}"
    return to_status(error)[1]


def _main(words: Sequence[str], log: Log) -> int:
    try:
        values, rest = parse((*FLAGS, _VERSION), words)
    except UsageError as error:
        from wherry.runc.command.usage import general

        sys.stdout.write(f"Incorrect Usage. {error}\n\n{general()}")
        raise
    if values.switch("help") or (not rest and not values.switch("version")):
        return _help(rest[:0], log)
    if values.switch("version"):
        from wherry.runc.command.version import version

        sys.stdout.write(f"{NAME} version {version()}\n")
        return 0
    settings = Settings(values, log)
    log.open(values.text("log"), values.text("log-format"), debug=values.switch("debug"))
    name, *rest = rest
    if name in ("help", "h") or name not in COMMANDS:
        return _help(rest[:1] if name in ("help", "h") else [name], log)
    return _call(settings, name, rest)


def _help(words: Sequence[str], log: Log) -> int:
    from wherry.runc.command.usage import general, of_command

    if not words:
        sys.stdout.write(general())
    elif words[0] in COMMANDS:
        sys.stdout.write(of_command(words[0]))
    else:
        log.fatal(f"No help topic for '{words[0]}'")
        return 3
    return 0


def _call(settings: Settings, name: str, words: Sequence[str]) -> int:
    module = __import__(f"wherry.runc.command.{name}", fromlist=["COMMAND"])
    command: Command = module.COMMAND
    try:
        values, rest = parse(command.flags, words, anywhere=not command.flags_first)
    except UsageError as error:
        _incorrect(name, f": {error}")
        raise
    if values.switch("help"):
        return _help([name], settings.log)
    problem = _wrong_number(command, len(rest))
    if problem:
        _incorrect(name, ".")
        raise UsageError(f'{NAME}: "{name}" requires {problem} argument(s)')
    settings.log.debug(f"{name} {' '.join(words)}")
    try:
        status: int = module.run(Call(settings, values, rest))
    except BrokenPipeError:
        raise
    except (Error, OSError) as error:
        settings.log.fatal(f"{command.failure}: {reason(error)}" if command.failure else reason(error))
        return command.failure_code
    return status


def _wrong_number(command: Command, number: int) -> str:
    if command.least == command.most:
        return "" if number == command.least else f"exactly {command.least}"
    if number < command.least:
        return f"a minimum of {command.least}"
    if command.most is not None and number > command.most:
        return f"a maximum of {command.most}"
    return ""


def _incorrect(name: str, rest: str) -> None:
    from wherry.runc.command.usage import of_command

    sys.stdout.write(f"Incorrect Usage{rest}\n\n{of_command(name)}")

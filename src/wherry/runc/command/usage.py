"""Help, as text."""

from __future__ import annotations

from wherry.runc.command.flags import HELP, SWITCH, Flag
from wherry.runc.command.main import _VERSION, COMMANDS, NAME
from wherry.runc.command.settings import FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wherry.runc.command.command import Command

_WIDTH = 100
_INDENT = "  "

_ABOUT = f"""\
{NAME} runs containers from OCI bundles: directories with a config.json and a root file system. It has runc's command
line, and keeps containers of its own: runc does not see them, nor does {NAME} see runc's.

A container lives from `create` (or `run`, which is create and start in one) to `delete`:

  $ {NAME} spec                      a config.json to begin with
  $ {NAME} run --bundle . ID         run it here, in the foreground
  $ {NAME} list                      see what there is
"""


def general() -> str:
    """Return the help of the whole command line."""
    rows = [(name, _command(name).summary) for name in COMMANDS]
    return (
        f"Usage: {NAME} [global flags] COMMAND [flags] [arguments]\n\n{_ABOUT}\n"
        f"Commands:\n{_table(rows)}\n"
        f"Global flags:\n{_table(_flag_rows([*FLAGS, HELP, _VERSION]))}\n"
        f"`{NAME} COMMAND --help` tells more of a command.\n"
    )


def of_command(name: str) -> str:
    """Return the help of one command."""
    command = _command(name)
    flags = " [flags]" if command.flags else ""
    operands = f" {command.operands}" if command.operands else ""
    return (
        f"Usage: {NAME} [global flags] {name}{flags}{operands}\n\n{command.description.strip()}\n\n"
        f"Flags:\n{_table(_flag_rows([*command.flags, HELP]))}"
    )


def _command(name: str) -> Command:
    command: Command = __import__(f"wherry.runc.command.{name}", fromlist=["COMMAND"]).COMMAND
    return command


def _flag_rows(flags: Sequence[Flag]) -> list[tuple[str, str]]:
    rows = []
    for flag in flags:
        if flag.hidden:
            continue
        value = "" if flag.kind == SWITCH else " value"
        short = f", -{flag.short}{value}" if flag.short else ""
        default = f" (default: {flag.default})" if flag.default else ""
        rows.append((f"--{flag.name}{value}{short}", flag.purpose + default))
    return rows


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(left) for left, _right in rows)
    lines = []
    for left, right in rows:
        for number, part in enumerate(_wrapped(right, _WIDTH - width - 4)):
            lines.append(f"{_INDENT}{left if number == 0 else '':{width}}  {part}\n")
    return "".join(lines)


def _wrapped(text: str, width: int) -> Iterable[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line

"""`wherry-runc list`."""

from __future__ import annotations

import sys

from wherry.errors import Unknown
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag
from wherry.runc.command.go_json import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.runc.command.command import Call
    from wherry.runc.container import Container

COMMAND = Command(
    "list the containers",
    "",
    "List the containers whose state is kept below --root.",
    (
        Flag("format", "table or json", short="f", default="table"),
        Flag("quiet", "print the ids alone", SWITCH, short="q"),
    ),
    least=0,
    most=0,
)

_HEADER = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_MIN_WIDTH = 12
_PADDING = 3


def run(call: Call) -> int:
    from wherry.runc.container import containers

    found = containers(call.settings.root)
    if call.values.switch("quiet"):
        sys.stdout.write("".join(f"{container.id}\n" for container in found))
        return 0
    form = call.values.text("format")
    if form not in ("table", "json"):
        raise Unknown("invalid format option")
    states = [{**container.state(), "owner": _owner(container)} for container in found]
    if form == "json":
        for state in states:
            if "annotations" in state:
                state["annotations"] = dict(sorted(state["annotations"].items()))
        sys.stdout.write(encode(states or None) + "\n")
    else:
        fields = ("id", "pid", "status", "bundle", "created", "owner")
        _print_table([_HEADER, *([str(state[field]) for field in fields] for state in states)])
    return 0


def _owner(container: Container) -> str:
    """Return the name of whoever made it: by this host's names, a number that has none as `#1000`."""
    uid = container.owner
    try:
        with open("/etc/passwd", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(":")
                if len(fields) > 2 and fields[2] == str(uid):
                    return fields[0]
    except OSError:
        pass  # a host without names
    return f"#{uid}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(_MIN_WIDTH, *(len(cell) + _PADDING for cell in column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        sys.stdout.write("".join(cells) + row[-1] + "\n")

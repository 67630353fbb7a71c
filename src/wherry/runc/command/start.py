"""`wherry-runc start`."""

from __future__ import annotations

from wherry.runc.command.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "start the process of a created container",
    "ID",
    "Let the process of a container that was made by `create` go on to its program.",
)


def run(call: Call) -> int:
    call.load().start()
    return 0

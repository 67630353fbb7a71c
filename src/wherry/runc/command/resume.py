"""`wherry-runc resume`."""

from __future__ import annotations

from wherry.runc.command.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "let a paused container go on",
    "ID",
    "Let all processes of a container go on that `pause` holds.",
)


def run(call: Call) -> int:
    call.load().resume()
    return 0

"""`wherry-runc pause`."""

from __future__ import annotations

from wherry.runc.command.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "hold all processes of a container",
    "ID",
    "Hold all processes of a container, by its cgroup's freezer, until `resume`.",
)


def run(call: Call) -> int:
    call.load().pause()
    return 0

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
    container = call.load()
    if not call.settings.notify_socket:
        container.start()
        return 0
    from wherry.runc.command.notify import Notification

    notification = Notification(container.directory, call.settings.notify_socket)
    container.start()
    notification.wait(container, call.settings.log)
    return 0

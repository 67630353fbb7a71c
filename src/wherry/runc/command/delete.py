"""`wherry-runc delete`."""

from __future__ import annotations

import os

from wherry.errors import NotFound
from wherry.runc.command.command import Command
from wherry.runc.command.flags import SWITCH, Flag
from wherry.runc.state import directory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "remove a container",
    "ID",
    "Remove all that there is of a stopped container, its state and its cgroups; the bundle stays. A container that\n"
    "was created and never started ends by it.",
    (Flag("force", "kill it first if it runs (SIGKILL); no error if there is none", SWITCH, short="f"),),
)


def run(call: Call) -> int:
    force = call.values.switch("force")
    try:
        container = call.load()
    except NotFound:
        _remove_remains(directory_of(call.settings.root, call.id))
        if force:
            return 0
        raise
    if failed := container.delete(force=force):
        call.settings.log.error(failed)
    return 0


def _remove_remains(directory: str) -> None:
    """Remove what a create that was killed at its beginning left: an empty directory, never another runtime's."""
    try:
        os.rmdir(directory)
    except OSError:
        return  # there is none, or it is not ours

"""`wherry-runc state`."""

from __future__ import annotations

import sys

from wherry.runc.command.command import Command
from wherry.runc.command.go_json import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.command import Call

COMMAND = Command(
    "print the state of a container",
    "ID",
    "Print a container's state as JSON: the document of the OCI runtime specification, with rootfs and creation time.",
)


def run(call: Call) -> int:
    state = call.load().state()
    if "annotations" in state:
        state["annotations"] = dict(sorted(state["annotations"].items()))
    sys.stdout.write(encode(state, indent="  "))
    return 0

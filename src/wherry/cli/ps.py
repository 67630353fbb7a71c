"""wherry ps."""

from __future__ import annotations

from wherry.cli.table import add_listing_flags, ago, shortened, show
from wherry.client.containers import statuses

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.containers import ContainerStatus

#: Of a command, in the table.
_COMMAND = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "List the containers that run; with --all, also those that do not."
    parser.add_argument("-a", "--all", action="store_true", help="list containers that do not run, too")
    add_listing_flags(parser, quiet="names")


def run(options: argparse.Namespace, session: Session) -> int:
    """List containers."""
    shown = [each for each in session.run(statuses(session.client)) if options.all or each.runs]
    headings = ("CONTAINER", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID")
    return show(options, shown, lambda each: each.id, lambda each: each.document(), headings, _row, right=(5,))


def _row(each: ContainerStatus) -> list[str]:
    command = shortened(" ".join(each.command), _COMMAND)
    return [each.id, each.container.image, command, ago(each.created_at), _status(each), str(each.pid or "")]


def _status(each: ContainerStatus) -> str:
    if each.exit_status is None:
        return each.state or "no task"
    when = ago(each.exited_at)
    return f"exited {each.exit_status}" + (f", {when}" if when else "")

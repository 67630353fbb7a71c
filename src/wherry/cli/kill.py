"""wherry kill."""

from __future__ import annotations

from wherry.cli.operands import each, signal_number
from wherry.client.containers import Containers
from wherry.client.run import STOP_SIGNAL_LABEL
from wherry.client.tasks import Tasks
from wherry.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Send a signal to the first process of containers."
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")
    parser.add_argument(
        "-s", "--signal", help="a name or a number (default: what the image says it stops at, else SIGTERM)"
    )
    parser.add_argument("-a", "--all", action="store_true", help="send it to every process of the container")
    parser.add_argument("--exec-id", default="", metavar="ID", help="send it to this exec instead")


def run(options: argparse.Namespace, session: Session) -> int:
    """Send the signal."""
    given = signal_number(options.signal) if options.signal else 0

    def kill(id: str) -> None:
        number = given or session.run(_stop_signal(session, id))
        task = Tasks(session.client).task(id)
        session.run(task.kill(number, options.exec_id, all=options.all))

    return each(options.containers, kill)


async def _stop_signal(session: Session, id: str) -> int:
    try:
        container = await Containers(session.client).get(id)
    except NotFound:
        return signal_number("TERM")  # a task may outlive its record
    return signal_number(container.labels.get(STOP_SIGNAL_LABEL) or "TERM")

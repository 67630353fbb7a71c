"""wherry rm."""

from __future__ import annotations

from wherry.cli.operands import each
from wherry.client.containers import Containers

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Remove containers that do not run, with their files; with --force, kill those that do."
    parser.add_argument("containers", nargs="+", metavar="CONTAINER")
    parser.add_argument("-f", "--force", action="store_true", help="kill what runs, and remove it")


def run(options: argparse.Namespace, session: Session) -> int:
    """Remove containers."""
    containers = Containers(session.client)

    def remove(id: str) -> None:
        session.run(containers.remove(id, force=options.force))
        print(id)

    return each(options.containers, remove)

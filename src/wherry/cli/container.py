"""wherry container."""

from __future__ import annotations

from wherry.cli import rm
from wherry.cli.main import nested
from wherry.cli.operands import each
from wherry.cli.table import add_listing_flags, ago, joined, print_json, show
from wherry.client.containers import Containers
from wherry.client.documents import document, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.containers import Container


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Containers: the records that tasks are made of. `wherry ps` tells what runs."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list containers", description="List containers.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help='as in: image==busybox, labels."a/b"==c')
    add_listing_flags(listing, quiet="names")
    listing.set_defaults(handler=_list)
    inspecting = actions.add_parser("inspect", help="show all about containers, as JSON")
    inspecting.description = "Show all about containers, their specifications included, as a JSON list."
    inspecting.add_argument("containers", nargs="+", metavar="CONTAINER")
    inspecting.set_defaults(handler=_inspect)
    removing = actions.add_parser("rm", help="remove containers")
    rm.add_arguments(removing)
    removing.set_defaults(handler=rm.run)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    containers = session.run(Containers(session.client).list(options.filters))
    headings = ("CONTAINER", "IMAGE", "RUNTIME", "CREATED", "LABELS")
    return show(options, containers, lambda each: each.id, document, headings, _row)


def _row(each: Container) -> list[str]:
    return [each.id, each.image, each.runtime.name, ago(nanoseconds(each.created_at)), joined(each.labels)]


def _inspect(options: argparse.Namespace, session: Session) -> int:
    containers = Containers(session.client)
    found: list[Any] = []
    status = each(options.containers, lambda name: found.append(document(session.run(containers.get(name)))))
    print_json(found)
    return status

"""wherry sandbox."""

from __future__ import annotations

from wherry.cli.main import nested
from wherry.cli.operands import each
from wherry.cli.table import add_listing_flags, ago, joined, print_json, show
from wherry.client.documents import document, nanoseconds
from wherry.client.sandboxes import Sandboxes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.sandboxes import Sandbox


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Sandboxes: what several containers share, as the containers of a pod do."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list sandboxes", description="List sandboxes.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help='as in: id==pod, labels."a/b"==c')
    add_listing_flags(listing, quiet="ids")
    listing.set_defaults(handler=_list)
    inspecting = actions.add_parser("inspect", help="show all about sandboxes, as JSON")
    inspecting.description = "Show all about sandboxes, and what their controllers say of them, as a JSON list."
    inspecting.add_argument("sandboxes", nargs="+", metavar="SANDBOX")
    inspecting.set_defaults(handler=_inspect)
    removing = actions.add_parser("rm", help="remove sandboxes")
    removing.description = "Remove sandboxes that do not run."
    removing.add_argument("-f", "--force", action="store_true", help="end what runs, its containers included")
    removing.add_argument("sandboxes", nargs="+", metavar="SANDBOX")
    removing.set_defaults(handler=_remove)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    sandboxes = session.run(Sandboxes(session.client).list(options.filters))
    headings = ("SANDBOX", "RUNTIME", "SANDBOXER", "CREATED", "LABELS")
    return show(options, sandboxes, lambda each: each.sandbox_id, document, headings, _row)


def _row(each: Sandbox) -> list[str]:
    created = ago(nanoseconds(each.created_at))
    return [each.sandbox_id, each.runtime.name, each.sandboxer, created, joined(each.labels)]


def _inspect(options: argparse.Namespace, session: Session) -> int:
    sandboxes = Sandboxes(session.client)
    found: list[Any] = []
    status = each(options.sandboxes, lambda id: found.append(session.run(sandboxes.inspect(id))))
    print_json(found)
    return status


def _remove(options: argparse.Namespace, session: Session) -> int:
    sandboxes = Sandboxes(session.client)

    def remove(id: str) -> None:
        session.run(sandboxes.remove(id, force=options.force))
        print(id)

    return each(options.sandboxes, remove)

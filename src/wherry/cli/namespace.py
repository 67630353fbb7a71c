"""wherry namespace."""

from __future__ import annotations

from wherry.cli.main import nested
from wherry.cli.operands import each, pairs
from wherry.cli.table import add_listing_flags, joined, show
from wherry.client.documents import document
from wherry.client.namespaces import Namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Namespaces: each a world of images and containers of its own, in one daemon."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list namespaces", description="List namespaces.")
    add_listing_flags(listing, quiet="names")
    listing.set_defaults(handler=_list)
    creating = actions.add_parser("create", help="create a namespace")
    creating.description = "Create a namespace. One is also created by the first thing that is made in it."
    creating.add_argument("name", metavar="NAMESPACE")
    creating.add_argument("labels", nargs="*", metavar="KEY=VALUE", help="a label")
    creating.set_defaults(handler=_create)
    labelling = actions.add_parser("label", help="set and take away labels of a namespace")
    labelling.description = "Set labels of a namespace; KEY= takes one away."
    labelling.add_argument("name", metavar="NAMESPACE")
    labelling.add_argument("labels", nargs="+", metavar="KEY=VALUE", help="a label")
    labelling.set_defaults(handler=_label)
    removing = actions.add_parser("rm", help="remove empty namespaces", description="Remove empty namespaces.")
    removing.add_argument("names", nargs="+", metavar="NAMESPACE")
    removing.set_defaults(handler=_remove)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    namespaces = sorted(session.run(Namespaces(session.client).list()), key=lambda namespace: namespace.name)
    return show(
        options,
        namespaces,
        lambda namespace: namespace.name,
        document,
        ("NAMESPACE", "LABELS"),
        lambda namespace: (namespace.name, joined(namespace.labels)),
    )


def _create(options: argparse.Namespace, session: Session) -> int:
    session.run(Namespaces(session.client).create(options.name, pairs(options.labels)))
    return 0


def _label(options: argparse.Namespace, session: Session) -> int:
    session.run(Namespaces(session.client).label(options.name, pairs(options.labels)))
    return 0


def _remove(options: argparse.Namespace, session: Session) -> int:
    namespaces = Namespaces(session.client)

    def remove(name: str) -> None:
        session.run(namespaces.delete(name))
        print(name)

    return each(options.names, remove)

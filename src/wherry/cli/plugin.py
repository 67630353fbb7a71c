"""wherry plugin."""

from __future__ import annotations

from wherry.cli.main import nested
from wherry.cli.table import add_listing_flags, show
from wherry.client.documents import document
from wherry.client.server import plugins

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.server import Plugin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Plugins: the parts that the daemon says it has."
    listing = nested(parser).add_parser("ls", help="list plugins", description="List the daemon's plugins.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help="as in: type~=snapshotter, id==overlayfs")
    add_listing_flags(listing, quiet="types and ids, joined by a dot,")
    listing.set_defaults(handler=_list)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    found = session.run(plugins(session.client, options.filters))
    headings = ("TYPE", "ID", "PLATFORMS", "STATUS")
    return show(options, found, lambda plugin: f"{plugin.type}.{plugin.id}", document, headings, _row)


def _row(plugin: Plugin) -> list[str]:
    platforms = ",".join(
        "/".join(filter(None, (each.os, each.architecture, each.variant))) for each in plugin.platforms
    )
    return [plugin.type, plugin.id, platforms, _status(plugin)]


def _status(plugin: Plugin) -> str:
    if not plugin.HasField("init_err"):
        return "ok"
    return "skip" if "skip plugin" in plugin.init_err.message else f"error: {plugin.init_err.message}"

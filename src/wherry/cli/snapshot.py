"""wherry snapshot."""

from __future__ import annotations

from wherry.cli.main import nested
from wherry.cli.operands import each
from wherry.cli.table import Table, add_listing_flags, ago, print_json, printable, show, size
from wherry.client.documents import document, nanoseconds
from wherry.client.snapshots import kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.snapshots import Info, Snapshots


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Snapshots: layers unpacked, and the containers' own files on top of them."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list snapshots", description="List snapshots.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help="as in: kind==active, parent==KEY")
    add_listing_flags(listing, quiet="keys")
    listing.set_defaults(handler=_list)
    tree = actions.add_parser("tree", help="show what stands on what")
    tree.description = "Show what stands on what, as a tree."
    tree.set_defaults(handler=_tree)
    usage = actions.add_parser("usage", help="show what snapshots occupy")
    usage.description = "Show the bytes and inodes of snapshots, without those of what they stand on."
    usage.add_argument("keys", nargs="*", metavar="KEY", help="(default: all)")
    usage.add_argument("--json", action="store_true", help="print a JSON list, for programs")
    usage.set_defaults(handler=_usage)
    removing = actions.add_parser("rm", help="remove snapshots", description="Remove snapshots that none stands on.")
    removing.add_argument("keys", nargs="+", metavar="KEY")
    removing.set_defaults(handler=_remove)
    for action in (listing, tree, usage, removing):
        action.add_argument("--snapshotter", default="", metavar="NAME", help="(default: overlayfs)")


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _snapshots(options: argparse.Namespace, session: Session) -> Snapshots:
    return session.client.snapshots(options.snapshotter)


def _list(options: argparse.Namespace, session: Session) -> int:
    infos = session.run(_snapshots(options, session).list(options.filters))
    headings = ("KEY", "PARENT", "KIND", "CREATED")
    return show(options, infos, lambda info: info.name, document, headings, _row)


def _row(info: Info) -> list[str]:
    return [info.name, info.parent, kind_of(info), ago(nanoseconds(info.created_at))]


def _tree(options: argparse.Namespace, session: Session) -> int:
    infos = sorted(session.run(_snapshots(options, session).list()), key=lambda info: info.name)
    children: dict[str, list[Info]] = {}
    keys = {info.name for info in infos}
    for info in infos:
        children.setdefault(info.parent if info.parent in keys else "", []).append(info)
    # Not by recursion: a chain of layers may be longer than Python's stack.
    waiting = [(info, "", "") for info in reversed(children.get("", []))]
    while waiting:
        info, branch, indent = waiting.pop()
        kind = kind_of(info)
        print(branch + printable(info.name) + ("" if kind == "committed" else f"  ({kind})"))
        below = children.get(info.name, [])
        for number, child in reversed(list(enumerate(below))):
            last = number == len(below) - 1
            waiting.append((child, indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")))
    return 0


def _usage(options: argparse.Namespace, session: Session) -> int:
    snapshots = _snapshots(options, session)
    keys = options.keys or [info.name for info in session.run(snapshots.list())]
    found = []

    def measure(key: str) -> None:
        usage = session.run(snapshots.usage(key))
        found.append((key, usage.size, usage.inodes))

    status = each(keys, measure)
    if options.json:
        print_json([{"key": key, "size": count, "inodes": inodes} for key, count, inodes in found])
        return status
    table = Table("KEY", "SIZE", "INODES", right=(1, 2))
    for key, count, inodes in found:
        table.add(key, size(count), str(inodes))
    table.print()
    return status


def _remove(options: argparse.Namespace, session: Session) -> int:
    snapshots = _snapshots(options, session)

    def remove(key: str) -> None:
        session.run(snapshots.remove(key))
        print(key)

    return each(options.keys, remove)

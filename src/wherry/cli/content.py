"""wherry content."""

from __future__ import annotations

import sys

from wherry.cli.main import nested
from wherry.cli.operands import each, pairs
from wherry.cli.table import add_listing_flags, ago, joined, show, size
from wherry.client.documents import document, nanoseconds
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.content import Info, Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Content: the blobs that images are made of, by digest."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list blobs", description="List blobs, or the writes under way.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help='as in: labels."a/b"==c')
    listing.add_argument("--active", action="store_true", help="list what is being written instead")
    add_listing_flags(listing, quiet="digests (or refs)")
    listing.set_defaults(handler=_list)
    getting = actions.add_parser("get", help="write a blob to standard output")
    getting.description = "Write a blob to standard output."
    getting.add_argument("digest", metavar="DIGEST")
    getting.set_defaults(handler=_get)
    ingesting = actions.add_parser("ingest", help="store a blob")
    ingesting.description = (
        "Store a file, or standard input, as a blob, and print its digest. What nothing refers to is collected some "
        "time: a label containerd.io/gc.root keeps it."
    )
    ingesting.add_argument(
        "ref", metavar="REF", help="a name for the write; with size and digest, an interrupted one is resumed"
    )
    ingesting.add_argument("file", nargs="?", default="-", metavar="FILE", help="(default: standard input)")
    ingesting.add_argument("--expected-size", type=int, default=0, metavar="BYTES", help="fail if it has another size")
    ingesting.add_argument("--expected-digest", default="", metavar="DIGEST", help="fail if it has another digest")
    ingesting.add_argument("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="label the blob")
    ingesting.set_defaults(handler=_ingest)
    removing = actions.add_parser("rm", help="remove blobs", description="Remove blobs.")
    removing.add_argument("digests", nargs="+", metavar="DIGEST")
    removing.set_defaults(handler=_remove)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    content = session.client.content
    if options.active:
        statuses = session.run(content.statuses(options.filters))
        active = ("REF", "SIZE", "OF", "STARTED", "UPDATED")
        return show(options, statuses, lambda status: status.ref, document, active, _status_row, right=(1, 2))
    infos = session.run(content.list(options.filters))
    headings = ("DIGEST", "SIZE", "CREATED", "LABELS")
    return show(options, infos, lambda info: info.digest, document, headings, _row, right=(1,))


def _row(info: Info) -> list[str]:
    return [info.digest, size(info.size), ago(nanoseconds(info.created_at)), joined(info.labels)]


def _status_row(status: Status) -> list[str]:
    started, updated = ago(nanoseconds(status.started_at)), ago(nanoseconds(status.updated_at))
    return [status.ref, size(status.offset), size(status.total) if status.total else "", started, updated]


def _get(options: argparse.Namespace, session: Session) -> int:
    async def copy() -> None:
        async for piece in session.client.content.read(options.digest):
            sys.stdout.buffer.write(piece)

    session.run(copy())
    sys.stdout.buffer.flush()
    return 0


def _ingest(options: argparse.Namespace, session: Session) -> int:
    from wherry.client.archive import pieces

    if options.expected_size < 0:
        raise InvalidArgument(f"--expected-size {options.expected_size}: a size is no less than 0")
    labels = pairs(options.label)
    with sys.stdin.buffer if options.file == "-" else open(options.file, "rb", buffering=0) as file:
        written = session.client.content.write(
            options.ref,
            pieces(file),
            total=options.expected_size,
            expected=options.expected_digest,
            labels=labels,
        )
        print(session.run(written))
    return 0


def _remove(options: argparse.Namespace, session: Session) -> int:
    def remove(digest: str) -> None:
        session.run(session.client.content.delete(digest))
        print(digest)

    return each(options.digests, remove)

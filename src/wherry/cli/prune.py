"""wherry prune."""

from __future__ import annotations

from wherry.cli.table import print_json, printable, size
from wherry.client.pruning import prune
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session

_DESCRIPTION = """\
Remove what nothing refers to any more: blobs and snapshots of images and containers that are gone. A daemon does so
itself soon after every removal; this does it now, waits for it, and tells what went. No image that has a name is
removed, nor any container, unless --images is given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = _DESCRIPTION
    parser.add_argument("--images", action="store_true", help="also remove the images that no container uses")
    parser.add_argument("--dry-run", action="store_true", help="remove nothing: show what would go")
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the sum of bytes, as a number")
    parser.add_argument("--json", action="store_true", help="print a JSON object, for programs")


def run(options: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if options.json and options.quiet:
        raise InvalidArgument("--quiet and --json: either may be given, not both")
    pruned = session.run(prune(session.client, images=options.images, dry_run=options.dry_run))
    if options.json:
        print_json(pruned.document())
        return 0
    if options.quiet:
        print(pruned.size)
        return 0
    for name in pruned.images:
        print(f"image     {printable(name)}")
    for digest, bytes in pruned.blobs:
        print(f"blob      {digest}  {size(bytes)}")
    for snapshotter, key, bytes in pruned.snapshots:
        print(f"snapshot  {snapshotter} {printable(key)}  {size(bytes)}")
    counts = f"{len(pruned.images)} images, {len(pruned.blobs)} blobs, {len(pruned.snapshots)} snapshots"
    print(f"{'would free' if options.dry_run else 'freed'} {size(pruned.size)}: {counts}")
    return 0

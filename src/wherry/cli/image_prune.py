"""wherry image prune."""

from __future__ import annotations

import sys

from wherry.cli.table import print_json, size
from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session


def add_prune(actions: Any) -> None:
    """Tell the flags."""
    pruning = actions.add_parser("prune", help="remove images that no container uses")
    pruning.description = (
        "Remove images that no container uses and that have no name but a digest; with --all, those that have one too. "
        "What nothing else refers to goes with them."
    )
    add = pruning.add_argument
    add("-a", "--all", action="store_true", help="remove all images that no container uses")
    add("-f", "--force", action="store_true", help="do not ask")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="FILTER",
        help="only what matches: until=24h (brought here longer ago), label=KEY[=VALUE], label!=KEY[=VALUE]",
    )
    add("-q", "--quiet", action="store_true", help="print the names of what was removed only")
    add("--json", action="store_true", help="print what was removed as a JSON object, for programs")
    pruning.set_defaults(handler=_prune)


def _prune(options: argparse.Namespace, session: Session) -> int:
    from wherry.client.image_prune import PruneOptions, prunable, prune

    if options.json and options.quiet:
        raise InvalidArgument("--quiet and --json: either may be given, not both")
    wanted = PruneOptions(all=options.all, filters=options.filter)
    images = session.run(prunable(session.client, wanted))
    if images and not options.force and not _agreed([image.name for image in images]):
        return 1
    pruned = session.run(prune(session.client, images))
    if options.json:
        print_json({"images": pruned.names, "bytes": pruned.bytes})
        return 0
    for name in pruned.names:
        print(name)
    if not options.quiet:
        print(f"{size(pruned.bytes)} freed")
    return 0


def _agreed(names: list[str]) -> bool:
    """Ask whether these are to go."""
    if not sys.stdin.isatty():
        raise InvalidArgument("image prune: standard input is no terminal to ask at; --force removes without asking")
    for name in names:
        print(f"  {name}", file=sys.stderr)
    what = "this image" if len(names) == 1 else f"these {len(names)} images"
    print(f"Remove {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

"""wherry version."""

from __future__ import annotations

import platform
import sys

import wherry
from wherry.cli.table import print_json
from wherry.client.server import version
from wherry.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.server import ServerVersion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = (
        "Show the versions of this command and of the daemon. The daemon's is containerd's whose interface it speaks. "
        "The exit status is 1 if no daemon answers."
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object, for programs")


def run(options: argparse.Namespace, session: Session) -> int:
    """Print the versions."""
    python = platform.python_version()
    if not options.json:
        # First of all, since the daemon may be long in answering, or not there.
        print(f"client:\n  wherry    {wherry.__version__}\n  python    {python}", flush=True)
    try:
        server = session.run(version(session.client))
    except Error as error:
        if options.json:
            print_json({"client": {"version": wherry.__version__, "python": python}, "server": None})
        print(f"wherry: {error}", file=sys.stderr)
        return 1
    if options.json:
        print_json({"client": {"version": wherry.__version__, "python": python}, "server": _document(server, session)})
        return 0
    print("server:")
    for name, value in _document(server, session).items():
        if value:
            print(f"  {name:<8}  {value}")
    return 0


def _document(server: ServerVersion, session: Session) -> dict[str, str]:
    return {
        "version": server.version,
        "revision": server.revision,
        "uuid": server.uuid,
        "address": session.address,
    }

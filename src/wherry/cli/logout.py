"""wherry logout."""

from __future__ import annotations

import os

from wherry.cli.login import host_of
from wherry.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Forget the password of a registry, Docker Hub if none is named."
    parser.add_argument("host", nargs="?", default="", metavar="REGISTRY", help="its host and port")


def run(options: argparse.Namespace, session: Session) -> int:
    """Log out."""
    from wherry.client.credentials import log_out

    host = host_of(options.host)
    if not log_out(host, os.environ):
        raise NotFound(f"login to {host or 'docker.io'}")
    print(f"Removed the login to {host or 'docker.io'}")
    return 0

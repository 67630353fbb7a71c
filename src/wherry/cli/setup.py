"""wherry setup."""

from __future__ import annotations

import os
import subprocess

from wherry.client.installation import UNIT, Installation

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = (
        "Link wherry's shims into /usr/local/bin, where wherryd and containerd find them, and install a systemd unit "
        "for wherryd. Doing it twice changes nothing; what others put there is left alone. Nothing is started."
    )
    parser.add_argument("--remove", action="store_true", help="undo it")
    parser.add_argument("--prefix", default="/", metavar="DIR", help="do it below this directory: an image's root")


def run(options: argparse.Namespace, session: Session) -> int:
    """Set up, or undo it."""
    installation = Installation(options.prefix)
    for line in installation.remove() if options.remove else installation.install():
        print(line)
    if os.path.abspath(options.prefix) == "/" and os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", "daemon-reload"], check=False)
        if not options.remove:
            print(f"start it, now and at every boot, with `systemctl enable --now {UNIT.removesuffix('.service')}`")
    return 0

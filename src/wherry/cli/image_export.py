"""wherry image export."""

from __future__ import annotations

import os
import sys

from wherry.errors import InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from wherry.cli.main import Session
    from wherry.client.connection import Channel

_EXPORT = """\
Write images to one OCI archive, which `docker load` takes as well."""


def add_export(actions: Any) -> None:
    """Tell the flags."""
    exporting = actions.add_parser("export", help="write images to an archive", description=_EXPORT)
    exporting.add_argument("images", nargs="+", metavar="IMAGE")
    exporting.add_argument("-o", "--output", default="-", metavar="FILE", help="the archive (default: standard output)")
    exporting.add_argument("--platform", default="", metavar="OS/ARCH", help="export another platform than this one's")
    exporting.add_argument("--all-platforms", action="store_true", help="export all platforms")
    exporting.set_defaults(handler=_export)


def _export(options: argparse.Namespace, session: Session) -> int:
    images = session.client.images

    if options.platform and options.all_platforms:
        raise InvalidArgument("--platform and --all-platforms: either may be given, not both")

    def write(destination: BinaryIO) -> None:
        names = [session.run(images.find(name)).name for name in options.images]
        try:
            session.run_in_loop(lambda channel: _transfer(channel, names, destination, options, session))
        except Unimplemented:  # containerd before 1.7: nothing has been written yet
            session.run(
                images.export(names, destination, platform=options.platform, all_platforms=options.all_platforms)
            )

    if options.output != "-":
        _write_whole(options.output, write)
    elif sys.stdout.isatty():
        raise InvalidArgument("image export: a terminal is no place for an archive; name a file with --output")
    else:
        with open(1, "wb", buffering=0, closefd=False) as file:
            write(file)
    return 0


async def _transfer(
    channel: Channel, names: list[str], destination: BinaryIO, options: argparse.Namespace, session: Session
) -> None:
    from wherry.client.transfer import Transferrer

    await Transferrer(channel, session.namespace).export(
        names,
        destination,
        platforms=[options.platform] if options.platform else [],
        all_platforms=options.all_platforms,
    )


def _write_whole(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Write a file that is there when it is complete, and not before."""
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb", buffering=0) as file:
            write(file)  # a pipe, a device
        return
    partial = f"{path}.partial-{os.getpid()}"
    try:
        with open(partial, "xb", buffering=0) as file:
            write(file)
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise

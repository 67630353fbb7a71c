"""The flags of commands that talk to registries."""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.client.transfer import Registry


def add_registry_flags(parser: argparse.ArgumentParser) -> None:
    """Add what tells how a registry is reached, and what is printed."""
    add = parser.add_argument
    add(
        "-u",
        "--user",
        default="",
        metavar="USER:PASSWORD",
        help="log in so, for this once (default: as `wherry login`)",
    )
    add("--plain-http", action="store_true", help="speak HTTP without TLS, as with registries on this machine")
    add(
        "--hosts-dir",
        default="",
        metavar="DIR",
        help="find hosts.toml files below this directory of the daemon's machine",
    )
    add("--header", action="append", default=[], metavar="NAME:VALUE", help="send this with every request")
    add("-q", "--quiet", action="store_true", help="print the image's name only")
    add("--json", action="store_true", help="print what happens and the image as JSON, a line each")


def check_output(options: argparse.Namespace) -> None:
    """Raise InvalidArgument for output flags that contradict each other."""
    if options.json and options.quiet:
        raise InvalidArgument("--quiet and --json: either may be given, not both")


def registry(options: argparse.Namespace, reference: str) -> Registry:
    """Return what the flags say of a reference's registry."""
    from wherry.client import credentials
    from wherry.client.transfer import Registry

    headers = {}
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise InvalidArgument(f"--header {header!r}: NAME:VALUE is expected")
        headers[name.strip()] = value.strip()
    if options.user:
        provider = credentials.given(options.user, reference)
    else:
        provider = credentials.from_configuration(os.environ)
    return Registry(
        hosts_dir=os.path.abspath(options.hosts_dir) if options.hosts_dir else "",
        plain_http=options.plain_http,
        headers=headers,
        credentials=provider,
    )

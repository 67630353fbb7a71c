"""wherry image convert."""

from __future__ import annotations

import sys

from wherry.cli.table import short_digest, size
from wherry.errors import Error, InvalidArgument, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.convert import Descriptor

_DESCRIPTION = """\
Make another image of one that is here: with other media types, or with layers compressed otherwise. What is in the
layers stays the same, byte for byte, so what is unpacked already serves the new image as well."""


def add_convert(actions: Any) -> None:
    """Tell the flags."""
    converting = actions.add_parser("convert", help="make an image of other media types or compression")
    converting.description = _DESCRIPTION
    add = converting.add_argument
    add("image", metavar="SOURCE")
    add("name", metavar="NAME", help="the new image's name, taken from the image that has it, if there is one")
    families = converting.add_mutually_exclusive_group()
    families.add_argument("--oci", action="store_true", help="use OCI's media types")
    families.add_argument("--docker", action="store_true", help="use Docker's media types")
    compressions = converting.add_mutually_exclusive_group()
    compressions.add_argument("--uncompress", action="store_true", help="leave the layers uncompressed")
    compressions.add_argument("--gzip", action="store_true", help="compress the layers with gzip")
    compressions.add_argument("--zstd", action="store_true", help="compress the layers with Zstandard")
    add(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH",
        help="convert for this platform; may be given again",
    )
    add("--all-platforms", action="store_true", help="convert for all platforms (default: for this machine's)")
    add("-q", "--quiet", action="store_true", help="print the image's name only")
    converting.set_defaults(handler=_convert)


def _convert(options: argparse.Namespace, session: Session) -> int:
    from wherry.client.convert import COMPRESSIONS, DOCKER, OCI, ConvertOptions, convert

    if options.platform and options.all_platforms:
        raise InvalidArgument("--platform and --all-platforms: either may be given, not both")
    compression = None
    for flag, name in (("uncompress", "uncompressed"), ("gzip", "gzip"), ("zstd", "zstd")):
        if getattr(options, flag):
            compression = COMPRESSIONS[name]
    family = OCI if options.oci else DOCKER if options.docker else ""
    if not family and compression is None:
        raise InvalidArgument("image convert: say to what, by --oci or --docker, --uncompress, --gzip or --zstd")

    def tell(layer: Descriptor) -> None:
        if not options.quiet and sys.stderr.isatty():
            print(f"compress layer {short_digest(layer.digest)}, {size(layer.size)}", file=sys.stderr)

    source = session.run(session.client.images.find(options.image)).name
    wanted = ConvertOptions(
        family=family,
        compression=compression,
        platforms=options.platform,
        all_platforms=options.all_platforms,
        on_layer=tell,
    )
    try:
        image = session.run(convert(session.client, source, options.name, wanted))
    except Error as error:
        raise from_status(error.code, f"convert {source}: {error.message}") from None
    print(image.name if options.quiet else f"{image.name}  {image.target.digest}")
    return 0

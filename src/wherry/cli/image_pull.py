"""wherry image pull, and wherry pull."""

from __future__ import annotations

import json

from wherry.cli.flags import FlagParser
from wherry.cli.operands import pairs
from wherry.cli.progress import show
from wherry.cli.registry_flags import add_registry_flags, check_output, registry
from wherry.errors import Error, InvalidArgument, Unimplemented, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.connection import Channel
    from wherry.client.images import Image

_EXAMPLES = """\
examples:
  wherry pull alpine
  wherry pull --platform linux/arm64 --no-unpack quay.io/some/image:1.2
  wherry pull localhost:5000/mine@sha256:..."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = (
        "Pull an image from a registry and unpack it.\n\n"
        "NAME is completed as Docker does: alpine is docker.io/library/alpine:latest."
    )
    parser.epilog = _EXAMPLES
    _keep_lines(parser)
    add = parser.add_argument
    add("image", metavar="NAME")
    add("--name", default="", metavar="OTHER", help="store the image under this name, as it is written")
    add("--platform", action="append", default=[], metavar="OS/ARCH", help="pull for this platform; may be given again")
    add("--all-platforms", action="store_true", help="pull for all platforms; unpack for this machine's")
    add("--no-unpack", action="store_true", help="leave the layers packed until the image is run")
    add("--snapshotter", default="", metavar="NAME", help="unpack with this snapshotter (default: overlayfs)")
    add("-l", "--label", action="append", default=[], metavar="KEY=VALUE", help="label the image")
    add_registry_flags(parser)


def _keep_lines(parser: argparse.ArgumentParser) -> None:
    """Have the epilog printed as it is, by a parser that prints one."""
    if hasattr(parser, "formatter_class"):
        from argparse import RawDescriptionHelpFormatter

        parser.formatter_class = RawDescriptionHelpFormatter


def run(options: argparse.Namespace, session: Session) -> int:
    """Pull the image."""
    check_output(options)
    image = pull(options, session)
    if options.json:
        from wherry.client.documents import document

        print(json.dumps({"image": document(image)}, ensure_ascii=False))
    elif options.quiet:
        print(image.name)
    else:
        print(f"Digest: {image.target.digest}\n{image.name}")
    return 0


def pull(options: argparse.Namespace, session: Session) -> Image:
    """Pull an image as the flags say, and show it."""
    from wherry.client.images import full_name
    from wherry.client.transfer import Transferrer

    reference = full_name(options.image)
    labels = pairs(options.label)
    place = registry(options, reference)

    async def work(channel: Channel) -> Image:
        with show(options, "Pulling", "Pulled", reference) as on_progress:
            flags: dict[str, Any] = {
                "name": options.name,
                "platforms": options.platform,
                "all_platforms": options.all_platforms,
                "unpack": not options.no_unpack,
                "snapshotter": options.snapshotter,
                "labels": labels,
                "registry": place,
                "on_progress": on_progress,
            }
            try:
                return await Transferrer(channel, session.namespace).pull(reference, **flags)
            except Unimplemented:
                from wherry.transfer.transferrer import LocalTransferrer

                return await LocalTransferrer(channel, session.namespace).pull(reference, **flags)

    try:
        return session.run_in_loop(work)
    except Error as error:
        raise from_status(error.code, f"pull of {reference}: {error.message}") from None


def pull_to_run(name: str, snapshotter: str, session: Session) -> bool:
    """Pull an image for a container that is to run, and show that to people, on standard error.

    False if the name is none of a registry's.
    """
    from wherry.client.images import full_name

    try:
        full_name(name)
    except InvalidArgument:
        return False
    flags = FlagParser()
    add_arguments(flags)  # type: ignore[arg-type]
    options = flags.parse(["--snapshotter", snapshotter, name] if snapshotter else [name])
    pull(options, session)  # type: ignore[arg-type]
    return True

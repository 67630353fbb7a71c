"""wherry image push, and wherry push."""

from __future__ import annotations

import json

from wherry.cli.progress import show
from wherry.cli.registry_flags import add_registry_flags, check_output, registry
from wherry.errors import Error, InvalidArgument, NotFound, Unimplemented, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.connection import Channel
    from wherry.client.transfer import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = (
        "Push an image to a registry: to the place that its name tells, or to REFERENCE, which is completed as Docker "
        "does. An image for several platforms is pushed whole if all of it is here; else the one that is."
    )
    add = parser.add_argument
    add("image", metavar="NAME")
    add("reference", nargs="?", default="", metavar="REFERENCE")
    add("--platform", action="append", default=[], metavar="OS/ARCH", help="push for this platform; may be given again")
    add("--all-platforms", action="store_true", help="push nothing unless all platforms are here")
    add_registry_flags(parser)


def run(options: argparse.Namespace, session: Session) -> int:
    """Push the image."""
    from wherry.client.images import descriptor_of, full_name
    from wherry.client.transfer import Transferrer

    check_output(options)
    if options.platform and options.all_platforms:
        raise InvalidArgument("--platform and --all-platforms: either may be given, not both")
    image = session.run(session.client.images.find(options.image))
    reference = full_name(options.reference or image.name)
    place = registry(options, reference)
    if options.all_platforms:
        try:
            session.run(session.client.images.check_complete(descriptor_of(image)))
        except NotFound as error:
            raise NotFound(f"push of {image.name} for all platforms: {error.message}") from None
    pushed = image.target

    async def work(channel: Channel) -> None:
        with show(options, "Pushing", "Pushed", reference) as on_progress:

            def watch(progress: Progress) -> None:
                nonlocal pushed
                if progress.event == "pushed content":
                    pushed = progress.desc  # of several platforms' images perhaps one
                on_progress(progress)

            flags: dict[str, Any] = {"platforms": options.platform, "registry": place, "on_progress": watch}
            try:
                await Transferrer(channel, session.namespace).push(image.name, reference, **flags)
            except Unimplemented:
                from wherry.transfer.transferrer import LocalTransferrer

                await LocalTransferrer(channel, session.namespace).push(image.name, reference, **flags)

    try:
        session.run_in_loop(work)
    except Error as error:
        raise from_status(error.code, f"push to {reference}: {error.message}") from None
    if options.json:
        target = {"mediaType": pushed.media_type, "digest": pushed.digest, "size": pushed.size}
        print(json.dumps({"pushed": {"reference": reference, "target": target}}, ensure_ascii=False))
    elif options.quiet:
        print(reference)
    else:
        print(f"Digest: {pushed.digest}\n{reference}")
    return 0

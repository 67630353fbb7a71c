"""wherry image ls, inspect, tag and rm."""

from __future__ import annotations

from wherry.cli.operands import each
from wherry.cli.table import add_listing_flags, ago, joined, print_json, short_digest, show, size
from wherry.client.documents import document, nanoseconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.image_listing import Summary
    from wherry.client.images import Image


def add_ls(actions: Any) -> None:
    """Tell the flags."""
    listing = actions.add_parser("ls", help="list images", description="List images.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help='as in: name~=busybox, labels."a/b"==c')
    add_listing_flags(listing, quiet="names")
    listing.set_defaults(handler=_list)


def add_rm(actions: Any) -> None:
    """Tell the flags."""
    removing = actions.add_parser("rm", help="remove images")
    removing.description = "Remove images' names, and with them what nothing else refers to."
    removing.add_argument("images", nargs="+", metavar="IMAGE")
    removing.set_defaults(handler=_remove)


def add_inspect(actions: Any) -> None:
    """Tell the flags."""
    inspecting = actions.add_parser("inspect", help="show all about images, as JSON")
    inspecting.description = "Show all about images, the configs of their manifests included, as a JSON list."
    inspecting.add_argument("images", nargs="+", metavar="IMAGE")
    inspecting.set_defaults(handler=_inspect)


def add_tag(actions: Any) -> None:
    """Tell the flags."""
    tagging = actions.add_parser("tag", help="give an image more names", description="Give an image more names.")
    tagging.add_argument("image", metavar="IMAGE")
    tagging.add_argument("names", nargs="+", metavar="NAME")
    tagging.add_argument("-f", "--force", action="store_true", help="take the names from other images")
    tagging.set_defaults(handler=_tag)


def _list(options: argparse.Namespace, session: Session) -> int:
    images = sorted(session.run(session.client.images.list(options.filters)), key=lambda image: image.name)
    described: dict[str, Summary | None] = {}
    if not options.quiet and not options.json:
        from wherry.client.image_listing import summaries

        found = session.run(summaries(session.client, images))
        described = {image.name: summary for image, summary in zip(images, found, strict=True)}

    def row(image: Image) -> list[str]:
        known = described[image.name]
        made = ago(nanoseconds(image.updated_at))
        digest = short_digest(image.target.digest)
        if known is None:
            return [image.name, digest, "", "", made, joined(image.labels)]
        return [image.name, digest, size(known.size), ",".join(known.platforms), made, joined(image.labels)]

    headings = ("NAME", "DIGEST", "SIZE", "PLATFORMS", "UPDATED", "LABELS")
    return show(options, images, lambda image: image.name, document, headings, row, right=(2,))


def _inspect(options: argparse.Namespace, session: Session) -> int:
    images = session.client.images
    found: list[Any] = []

    def inspect(name: str) -> None:
        found.append(session.run(images.describe(session.run(images.find(name)))).document())

    status = each(options.images, inspect)
    print_json(found)
    return status


def _remove(options: argparse.Namespace, session: Session) -> int:
    images = session.client.images
    last = options.images[-1]

    def remove(name: str) -> None:
        found = session.run(images.find(name)).name
        # To wait for one collection is enough.
        session.run(images.delete(found, sync=name == last))
        print(found)

    return each(options.images, remove)


def _tag(options: argparse.Namespace, session: Session) -> int:
    images = session.client.images
    found = session.run(images.find(options.image)).name

    def tag(name: str) -> None:
        print(session.run(images.tag(found, name, force=options.force)).name)

    return each(options.names, tag)

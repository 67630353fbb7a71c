"""wherry image."""

from __future__ import annotations

import os
import sys

from wherry.cli.main import nested
from wherry.cli.operands import each
from wherry.cli.table import add_listing_flags, ago, joined, print_json, short_digest, show, size
from wherry.client.documents import document, nanoseconds
from wherry.errors import Error, InvalidArgument, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from wherry.cli.main import Session
    from wherry.client.image_listing import Summary
    from wherry.client.images import Image

_IMPORT = """\
Import the images of an archive and unpack them; or, with --rootfs, make one of
a root file system's tar.

FILE is an OCI or Docker archive (of skopeo, podman, `docker save`, `ctr images
export`), compressed in any usual way or not; an OCI layout's directory (of
umoci, skopeo); or - for standard input."""
_IMPORT_EXAMPLES = """\
examples:
  docker save busybox | wherry image import -
  skopeo copy docker://busybox oci-archive:busybox.tar:docker.io/library/busybox:1
  wherry image import busybox.tar
  wherry image import --rootfs --change 'CMD ["sh"]' rootfs.tar.gz my/root:1"""
_EXPORT = """\
Write images to one OCI archive, which `docker load` takes as well."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    parser.description = "Images: import and export them, see what they are made of."
    actions = nested(parser)
    _add_import(actions)
    listing = actions.add_parser("ls", help="list images", description="List images.")
    listing.add_argument("filters", nargs="*", metavar="FILTER", help='as in: name~=busybox, labels."a/b"==c')
    add_listing_flags(listing, quiet="names")
    listing.set_defaults(handler=_list)
    removing = actions.add_parser("rm", help="remove images")
    removing.description = "Remove images' names, and with them what nothing else refers to."
    removing.add_argument("images", nargs="+", metavar="IMAGE")
    removing.set_defaults(handler=_remove)
    _add_export(actions)
    inspecting = actions.add_parser("inspect", help="show all about images, as JSON")
    inspecting.description = "Show all about images, the configs of their manifests included, as a JSON list."
    inspecting.add_argument("images", nargs="+", metavar="IMAGE")
    inspecting.set_defaults(handler=_inspect)
    tagging = actions.add_parser("tag", help="give an image more names", description="Give an image more names.")
    tagging.add_argument("image", metavar="IMAGE")
    tagging.add_argument("names", nargs="+", metavar="NAME")
    tagging.add_argument("-f", "--force", action="store_true", help="take the names from other images")
    tagging.set_defaults(handler=_tag)


def _add_import(actions: Any) -> None:
    from argparse import RawDescriptionHelpFormatter

    importing = actions.add_parser(
        "import", help="import images from an archive", formatter_class=RawDescriptionHelpFormatter
    )
    importing.description = _IMPORT
    importing.epilog = _IMPORT_EXAMPLES
    importing.usage = "wherry image import [flags] FILE\n       wherry image import --rootfs [flags] TAR NAME"
    add = importing.add_argument
    add("file", metavar="FILE")
    add("rootfs_name", nargs="?", default="", metavar="NAME", help="with --rootfs: the new image's name")
    add("--rootfs", action="store_true", help="FILE is a root file system's tar: plain, gzip, zstd, xz or bzip2")
    add("-c", "--change", action="append", default=[], metavar="INSTRUCTION",
        help="with --rootfs: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR, as in a\n"
             "Dockerfile")  # fmt: skip
    add("--name", default="", help="name the archive's one image so, whatever the archive calls it")
    add(
        "--base-name", default="", metavar="NAME", help="put names that are only tags after this (default: import-DATE)"
    )
    add("--platform", default="", metavar="OS/ARCH", help="import for another platform than this machine's")
    add("--all-platforms", action="store_true", help="import for all platforms; unpack for one")
    add("--no-unpack", action="store_true", help="leave the layers packed until the image is run")
    add("--snapshotter", default="", metavar="NAME", help="unpack with this snapshotter (default: overlayfs)")
    add("-q", "--quiet", action="store_true", help="print the images' names only")
    importing.set_defaults(handler=_import)


def _add_export(actions: Any) -> None:
    exporting = actions.add_parser("export", help="write images to an archive", description=_EXPORT)
    exporting.add_argument("images", nargs="+", metavar="IMAGE")
    exporting.add_argument("-o", "--output", default="-", metavar="FILE", help="the archive (default: standard output)")
    exporting.add_argument("--platform", default="", metavar="OS/ARCH", help="export another platform than this one's")
    exporting.add_argument("--all-platforms", action="store_true", help="export all platforms")
    exporting.set_defaults(handler=_export)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _import(options: argparse.Namespace, session: Session) -> int:
    if options.rootfs and not options.rootfs_name:
        raise InvalidArgument("image import --rootfs: name the new image, after the file")
    if options.rootfs_name and not options.rootfs:
        raise InvalidArgument(f"image import: {options.rootfs_name!r} is one word too many; --name renames an image")
    if options.rootfs and (options.name or options.base_name or options.all_platforms):
        raise InvalidArgument("image import --rootfs: --name, --base-name and --all-platforms are for archives")
    if options.change and not options.rootfs:
        raise InvalidArgument("image import: --change is for --rootfs alone")
    try:
        if options.file == "-":
            if sys.stdin.isatty():
                raise InvalidArgument("a terminal gives no archive; name a file")
            images = _import_from(sys.stdin.buffer, options, session)
        elif os.path.isdir(options.file) and not options.rootfs:
            images = _import_from(options.file, options, session)
        else:
            with open(options.file, "rb", buffering=0) as file:
                images = _import_from(file, options, session)
    except Error as error:
        source = "standard input" if options.file == "-" else options.file
        raise from_status(error.code, f"import of {source}: {error.message}") from None
    for image in images:
        print(image.name if options.quiet else f"{image.name}  {image.target.digest}")
    return 0


def _import_from(source: Any, options: argparse.Namespace, session: Session) -> list[Image]:
    images = session.client.images
    on_step = _progress(options)
    if options.rootfs:
        from wherry.client.rootfs_image import RootfsOptions

        comment = "imported from " + ("standard input" if options.file == "-" else os.path.basename(options.file))
        rootfs = RootfsOptions(
            changes=options.change,
            comment=comment,
            platform=options.platform,
            unpack=not options.no_unpack,
            snapshotter=options.snapshotter,
            on_step=on_step,
        )
        return [session.run(images.import_rootfs(source, options.rootfs_name, rootfs))]
    from wherry.client.archive_import import ImportOptions

    archive = ImportOptions(
        name=options.name,
        base_name=options.base_name,
        platform=options.platform,
        all_platforms=options.all_platforms,
        unpack=not options.no_unpack,
        snapshotter=options.snapshotter,
        on_step=on_step,
    )
    return session.run(images.import_archive(source, archive))


def _progress(options: argparse.Namespace) -> Callable[[str], None] | None:
    """Return what tells each step, to people: programs read the names that are printed in the end."""
    if options.quiet or not sys.stderr.isatty():
        return None
    return lambda line: print(line, file=sys.stderr)


def _export(options: argparse.Namespace, session: Session) -> int:
    images = session.client.images

    def write(destination: BinaryIO) -> None:
        names = [session.run(images.find(name)).name for name in options.images]
        session.run(images.export(names, destination, platform=options.platform, all_platforms=options.all_platforms))

    if options.output != "-":
        _write_whole(options.output, write)
    elif sys.stdout.isatty():
        raise InvalidArgument("image export: a terminal is no place for an archive; name a file with --output")
    else:
        write(sys.stdout.buffer)
    return 0


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

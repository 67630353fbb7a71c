"""wherry image import."""

from __future__ import annotations

import os
import sys

from wherry.cli.progress import show
from wherry.errors import Error, InvalidArgument, Unimplemented, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, BinaryIO

    from wherry.cli.main import Session
    from wherry.client.connection import Channel
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


def add_import(actions: Any) -> None:
    """Tell the flags."""
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
    add("--json", action="store_true", help="print what happens and the images as JSON, a line each")
    importing.set_defaults(handler=_import)


def _import(options: argparse.Namespace, session: Session) -> int:
    if options.rootfs and not options.rootfs_name:
        raise InvalidArgument("image import --rootfs: name the new image, after the file")
    if options.rootfs_name and not options.rootfs:
        raise InvalidArgument(f"image import: {options.rootfs_name!r} is one word too many; --name renames an image")
    if options.rootfs and (options.name or options.base_name or options.all_platforms):
        raise InvalidArgument("image import --rootfs: --name, --base-name and --all-platforms are for archives")
    if options.change and not options.rootfs:
        raise InvalidArgument("image import: --change is for --rootfs alone")
    if options.json and options.quiet:
        raise InvalidArgument("--quiet and --json: either may be given, not both")
    try:
        if options.file == "-":
            if sys.stdin.isatty():
                raise InvalidArgument("a terminal gives no archive; name a file")
            with open(0, "rb", buffering=0, closefd=False) as file:
                images = _import_from(file, options, session)
        elif os.path.isdir(options.file) and not options.rootfs:
            images = _import_from(options.file, options, session)
        else:
            with open(options.file, "rb", buffering=0) as file:
                images = _import_from(file, options, session)
    except Error as error:
        raise from_status(error.code, f"import of {_source(options)}: {error.message}") from None
    _print(images, options)
    return 0


def _source(options: argparse.Namespace) -> str:
    return "standard input" if options.file == "-" else str(options.file)


def _print(images: list[Image], options: argparse.Namespace) -> None:
    if options.json:
        import json

        from wherry.client.documents import document

        for image in images:
            print(json.dumps({"image": document(image)}, ensure_ascii=False))
        return
    for image in images:
        print(image.name if options.quiet else f"{image.name}  {image.target.digest}")


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
    # The service has no other name for one image of an archive, and reads no directories.
    if not options.name and not isinstance(source, str):
        try:
            return session.run_in_loop(lambda channel: _transfer(channel, source, options, session))
        except Unimplemented:
            pass  # containerd before 1.7: nothing has been read yet
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


async def _transfer(channel: Channel, source: BinaryIO, options: argparse.Namespace, session: Session) -> list[Image]:
    from wherry.client.archive_import import default_base_name
    from wherry.client.transfer import Transferrer

    with show(options, "Importing", "Imported", _source(options)) as on_progress:
        return await Transferrer(channel, session.namespace).import_archive(
            source,
            base_name=options.base_name or default_base_name(),
            platforms=[options.platform] if options.platform else [],
            all_platforms=options.all_platforms,
            unpack=not options.no_unpack,
            snapshotter=options.snapshotter,
            on_progress=on_progress,
        )


def _progress(options: argparse.Namespace) -> Callable[[str], None] | None:
    """Return what tells each step, to people: programs read the names that are printed in the end."""
    if options.quiet or options.json or not sys.stderr.isatty():
        return None
    return lambda line: print(line, file=sys.stderr)

"""wherry image mount and unmount."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session


def add_mount(actions: Any) -> None:
    """Tell the flags."""
    mounting = actions.add_parser("mount", help="mount an image at a directory")
    mounting.description = (
        "Mount an image's root file system at a directory, read-only unless --rw is given. `wherry image unmount --rm` "
        "undoes it; until then what it needs is kept."
    )
    add = mounting.add_argument
    add("image", metavar="IMAGE")
    add("directory", metavar="DIR")
    add("--rw", action="store_true", help="let the copy be written to; the image stays as it is")
    add("--platform", default="", metavar="OS/ARCH", help="mount what is for another platform than this machine's")
    add("--snapshotter", default="", metavar="NAME", help="the snapshotter (default: overlayfs)")
    mounting.set_defaults(handler=_mount)


def add_unmount(actions: Any) -> None:
    """Tell the flags."""
    unmounting = actions.add_parser("unmount", help="unmount an image from a directory")
    unmounting.description = (
        "Unmount what `wherry image mount`, or `ctr images mount`, mounted at a directory. Without --rm its snapshot "
        "stays, with whatever was written to it."
    )
    unmounting.add_argument("directory", metavar="DIR")
    unmounting.add_argument("--rm", action="store_true", help="remove the snapshot as well, and what was written")
    unmounting.add_argument("--snapshotter", default="", metavar="NAME", help="the snapshotter (default: overlayfs)")
    unmounting.set_defaults(handler=_unmount)


def _mount(options: argparse.Namespace, session: Session) -> int:
    from wherry.client.image_mounts import mount

    path = session.run(
        mount(
            session.client,
            options.image,
            options.directory,
            writable=options.rw,
            snapshotter=options.snapshotter,
            platform=options.platform,
        )
    )
    print(path)
    return 0


def _unmount(options: argparse.Namespace, session: Session) -> int:
    from wherry.client.image_mounts import unmount

    path = session.run(unmount(session.client, options.directory, remove=options.rm, snapshotter=options.snapshotter))
    print(path)
    return 0

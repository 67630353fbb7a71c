"""The steps of a transfer, with the words that containerd tells them in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from wherry.errors import Error, from_status
from wherry.transfer.pull import Puller, check_target
from wherry.transfer.push import Pusher

if TYPE_CHECKING:
    from wherry.oci.descriptor import Descriptor
    from wherry.registry.client import Repository
    from wherry.transfer.image_store import ImageStore
    from wherry.transfer.progress import Progress
    from wherry.transfer.session import Session

#: Asked before anything is fetched; raises if the image is not to be had.
Verify = Callable[[str, "Descriptor"], Awaitable[None]]


async def pull(
    session: Session, source: Repository, store: ImageStore, progress: Progress, verify: Verify | None = None
) -> list[Any]:
    """Pull an image, give it the store's names, and return the images made."""
    where = f"OCI Registry ({source.reference})"
    progress.say(f"Resolving from {where}")
    try:
        target = await source.resolve()
    except Error as error:
        raise from_status(error.code, f"failed to resolve image: {error.message}") from None
    check_target(target, source.reference)
    if verify is not None:
        await verify(source.reference, target)
    progress.say(f"Pulling from {where}")
    progress.say("fetching image content", source.reference, target)
    await Puller(session, source, store, progress).pull(target)
    images = await save(session, store, target, progress)
    progress.say(f"Completed pull from {where}")
    return images


async def push(session: Session, store: ImageStore, destination: Repository, progress: Progress) -> None:
    """Push the image of the store's name. NotFound if there is none."""
    where = f"OCI Registry ({destination.reference})"
    target = await session.target(store.name)
    progress.say(f"Pushing to {where}")
    progress.say("pushing content", store.name, target)
    pushed = await Pusher(session, destination, store.selection, progress).push(target)
    progress.say("pushed content", store.name, pushed)
    progress.say(f"Completed push to {where}", "", pushed)


async def tag(session: Session, store: ImageStore, other: ImageStore, progress: Progress) -> None:
    """Give an image other names. NotFound if there is none of its name."""
    await save(session, other, await session.target(store.name), progress)


async def save(session: Session, store: ImageStore, target: Descriptor, progress: Progress) -> list[Any]:
    """Give what was moved its names."""
    images = await store.save(session.images, target, store.names(target))
    for image in images:
        progress.say("saved", image.name, target)
    return images

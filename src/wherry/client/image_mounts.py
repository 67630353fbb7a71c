"""Images mounted for a look at them, or to change a copy: as `ctr images mount` does it, so either undoes the other's.

The snapshot's key is the path of the mount point, and a lease of that id holds it.
"""

from __future__ import annotations

import os

from wherry.client.images import descriptor_of
from wherry.client.leases import Leases
from wherry.client.snapshots import Snapshots
from wherry.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from wherry.linux.mount import mount_all, unmount_all
from wherry.oci.manifest import chain_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.client import Client


async def mount(
    client: Client, name: str, directory: str, *, writable: bool = False, snapshotter: str = "", platform: str = ""
) -> str:
    """Mount an image's root file system at a directory, in this process's mount namespace; return the whole path.

    It is unpacked first, if it is not yet. With `writable`, what is written goes to a snapshot of its own, which stays
    until `unmount` removes it. NotFound for the image or the directory; AlreadyExists if the directory has such a
    snapshot; FailedPrecondition for an image without layers. Undone if it fails.
    """
    path = os.path.abspath(directory)
    if not os.path.isdir(path):
        raise NotFound(f"directory {path}")
    image = await client.images.find(name)
    await client.images.unpack(image, snapshotter, platform=platform)
    chains = list(chain_ids((await client.images.manifest(descriptor_of(image), platform)).diff_ids()))
    if not chains:
        raise FailedPrecondition(f"image {image.name} has no layers to mount")
    leases = Leases(client.channel, client.namespace)
    try:
        await leases.create(path)
    except AlreadyExists:
        raise _in_use(path) from None
    try:
        snapshots = Snapshots(client.channel, client.namespace, snapshotter, path)
        try:
            mounts = await (snapshots.prepare if writable else snapshots.view)(path, chains[-1])
        except AlreadyExists:
            raise _in_use(path) from None
        try:
            mount_all(mounts, path)
        except PermissionError:
            raise PermissionDenied(f"mount at {path}: that takes root's privileges") from None
    except BaseException:
        await leases.delete(path, sync=True)  # and with it the snapshot, unless it was there before
        raise
    return path


async def unmount(client: Client, directory: str, *, remove: bool = False, snapshotter: str = "") -> str:
    """Unmount what is mounted at a directory; with `remove`, remove its snapshot as well. Returns the whole path.

    FailedPrecondition if somebody uses it; NotFound, with `remove`, if there is neither a mount nor a snapshot.
    """
    path = os.path.abspath(directory)
    mounted = os.path.ismount(path)
    try:
        unmount_all(path)
    except OSError as error:
        raise FailedPrecondition(f"unmount {path}: {(error.strerror or str(error)).lower()}") from None
    if not remove:
        if not mounted:
            raise NotFound(f"mount at {path}")
        return path
    found = mounted
    try:
        await Snapshots(client.channel, client.namespace, snapshotter).remove(path)
        found = True
    except NotFound:
        pass  # another snapshotter's, or taken away already: the lease goes all the same
    try:
        await Leases(client.channel, client.namespace).delete(path)
        found = True
    except NotFound:
        pass  # ctr's has expired after a day
    if not found:
        raise NotFound(f"mount or snapshot of {path}")
    return path


def _in_use(path: str) -> AlreadyExists:
    return AlreadyExists(f"snapshot of {path}: `wherry image unmount --rm {path}` removes it")

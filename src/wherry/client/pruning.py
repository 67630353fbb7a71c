"""Removing what nothing uses, now, and telling what that was."""

from __future__ import annotations

from wherry.client.client import Client
from wherry.client.garbage import Inventory
from wherry.client.namespaces import Namespaces
from wherry.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.client.garbage import Node

#: What the Kubernetes side of containerd labels images with that must stay.
_PINNED = "io.cri-containerd.pinned"


class Pruned:
    """What was removed, or would be: images by name, blobs by digest and snapshots by snapshotter and key."""

    def __init__(self) -> None:
        self.images: list[str] = []
        #: Digest, and bytes that became free: 0 for what another namespace still has.
        self.blobs: list[tuple[str, int]] = []
        #: Snapshotter, key and bytes.
        self.snapshots: list[tuple[str, str, int]] = []

    @property
    def size(self) -> int:
        """The bytes in sum."""
        return sum(size for _digest, size in self.blobs) + sum(size for _name, _key, size in self.snapshots)

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "images": self.images,
            "blobs": [{"digest": digest, "size": size} for digest, size in self.blobs],
            "snapshots": [{"snapshotter": name, "key": key, "size": size} for name, key, size in self.snapshots],
            "size": self.size,
        }


async def prune(client: Client, *, images: bool = False, dry_run: bool = False) -> Pruned:
    """Collect a daemon's garbage, with `images` after removing those that no container uses, and return what went.

    A dry run removes nothing, and returns what would go. A collection is of all namespaces; what is told is of the
    client's alone.
    """
    before = await Inventory.read(client)
    removed = unused_images(before) if images else []
    garbage = before.garbage(without_images=removed)
    sizes = {node: await _usage(client, node) for node in garbage if node[0].startswith("snapshots/")}
    if not dry_run:
        for name in list(removed):
            try:
                await client.images.delete(name)
            except NotFound:
                removed.remove(name)
        await _collect(client)
        after = await Inventory.read(client)
        garbage = before.nodes() - after.nodes() - {("images", name) for name in removed}
    elsewhere = await _elsewhere(client) if any(kind == "content" for kind, _key in garbage) else set()
    pruned = Pruned()
    pruned.images = sorted([*removed, *(key for kind, key in garbage if kind == "images")])
    for blob in sorted(before.blobs, key=lambda blob: blob.digest):
        if ("content", blob.digest) in garbage:
            pruned.blobs.append((blob.digest, 0 if blob.digest in elsewhere else blob.size))
    for kind, key in sorted(garbage):
        if kind.startswith("snapshots/"):
            pruned.snapshots.append((kind.partition("/")[2], key, sizes.get((kind, key), 0)))
    return pruned


def unused_images(inventory: Inventory) -> list[str]:
    """Return the images that no container refers to, by name or by what another name of its refers to.

    Those that Kubernetes has pinned are none of them.
    """
    named = {container.image for container in inventory.containers}
    used = {image.target.digest for image in inventory.images if image.name in named}
    return [
        image.name
        for image in inventory.images
        if image.target.digest not in used and image.labels.get(_PINNED) != "pinned"
    ]


async def _collect(client: Client) -> None:
    """Have the daemon collect: the synchronous deletion of a lease waits for that, whatever the lease held."""
    lease = client.leases.hold()
    async with lease:
        await client.leases.delete(lease.id, sync=True)


async def _usage(client: Client, node: Node) -> int:
    kind, key = node
    try:
        return (await client.snapshots(kind.partition("/")[2]).usage(key)).size
    except NotFound:
        return 0


async def _elsewhere(client: Client) -> set[str]:
    """Return the digests that other namespaces have."""
    found: set[str] = set()
    for namespace in await Namespaces(client).list():
        if namespace.name != client.namespace:
            found |= {blob.digest for blob in await Client(client.channel, namespace.name).content.list()}
    return found

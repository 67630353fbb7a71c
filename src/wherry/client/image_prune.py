"""Images that nobody uses, found and removed.

Docker's notion of a dangling image is one without a name. In containerd an image is its name, so those are meant whose
name is nothing but a digest, with or without the "import-DATE" that importers put before it.
"""

from __future__ import annotations

import re
import time

from wherry.client.containers import Containers
from wherry.client.documents import nanoseconds
from wherry.client.images import full_name
from wherry.client.snapshots import Snapshots
from wherry.errors import Error, InvalidArgument, NotFound
from wherry.oci.manifest import chain_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from wherry.client.client import Client
    from wherry.client.images import Image

_DANGLING = re.compile(r"(import-\d{4}-\d\d-\d\d@)?[a-z0-9]+:[0-9a-f]{32,}")
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SECONDS = (86400, 3600, 60, 1)
#: What the Kubernetes side of containerd labels images with that must stay.
_PINNED = "io.cri-containerd.pinned"
_SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot."


class PruneOptions:
    """Which images to remove, of those that no container uses."""

    __slots__ = ("all", "filters")

    def __init__(self, *, all: bool = False, filters: Sequence[str] = ()) -> None:
        """`filters` are as Docker's: until=24h, label=KEY, label=KEY=VALUE, label!=KEY. InvalidArgument for others."""
        #: Not only those whose name is but a digest.
        self.all = all
        self.filters = [_filter(text) for text in filters]


class Pruned:
    """What was removed."""

    __slots__ = ("bytes", "names")

    def __init__(self) -> None:
        self.names: list[str] = []
        #: Bytes of the blobs and snapshots that went with them.
        self.bytes = 0


async def prunable(client: Client, options: PruneOptions) -> list[Image]:
    """Return the images that would be removed."""
    images = await client.images.list()
    used = await _used(client, images)
    found = []
    for image in images:
        if image.target.digest in used or image.labels.get(_PINNED) == "pinned":
            continue
        if not (options.all or _DANGLING.fullmatch(image.name)):
            continue
        if all(matches(image) for matches in options.filters):
            found.append(image)
    return found


async def _used(client: Client, images: Iterable[Image]) -> set[str]:
    """Return the digests of the images that containers are made of, by whatever name: containers name theirs."""
    by_name = {image.name: image.target.digest for image in images}
    used: set[str] = set()
    for container in await Containers(client).list():
        names = [container.image]
        try:
            names.append(full_name(container.image))
        except InvalidArgument:
            pass  # no name of Docker's
        used.update(by_name[name] for name in names if name in by_name)
    return used


async def prune(client: Client, images: Sequence[Image]) -> Pruned:
    """Remove images and, before this returns, what nothing else refers to."""
    pruned = Pruned()
    if not images:
        return pruned
    snapshots = await _snapshots(client, images)
    before = {info.digest: info.size for info in await client.content.list()}
    for number, image in enumerate(images, 1):
        try:
            # To wait for one collection is enough.
            await client.images.delete(image.name, sync=number == len(images))
        except NotFound:
            continue  # by somebody else
        pruned.names.append(image.name)
    after = {info.digest for info in await client.content.list()}
    pruned.bytes += sum(size for digest, size in before.items() if digest not in after)
    for (snapshotter, key), size in snapshots.items():
        try:
            await Snapshots(client.channel, client.namespace, snapshotter).stat(key)
        except NotFound:
            pruned.bytes += size
    return pruned


async def _snapshots(client: Client, images: Iterable[Image]) -> dict[tuple[str, str], int]:
    """Return the snapshots that images are unpacked to, with their sizes."""
    sizes: dict[tuple[str, str], int] = {}
    for image in images:
        try:
            manifests = (await client.images.describe(image)).manifests
            for manifest in manifests:
                labels = (await client.content.info(manifest.manifest.config.digest)).labels
                keys = list(chain_ids(manifest.diff_ids()))
                for label in labels:
                    if label.startswith(_SNAPSHOT_LABEL):
                        await _measure(client, label.removeprefix(_SNAPSHOT_LABEL).partition("/")[0], keys, sizes)
        except Error:
            continue  # some of it is missing, or no image: what it frees is not told
    return sizes


async def _measure(client: Client, snapshotter: str, keys: Iterable[str], sizes: dict[tuple[str, str], int]) -> None:
    snapshots = Snapshots(client.channel, client.namespace, snapshotter)
    for key in keys:
        if (snapshotter, key) not in sizes:
            try:
                sizes[snapshotter, key] = (await snapshots.usage(key)).size
            except NotFound:
                continue


def _filter(text: str) -> Callable[[Image], bool]:
    key, equals, value = text.partition("=")
    if key == "until" and equals:
        limit = _moment(value)
        return lambda image: (nanoseconds(image.created_at) or 0) < limit
    if key in ("label", "label!") and value:
        label, with_value, wanted = value.partition("=")
        negated = key.endswith("!")

        def matches(image: Image) -> bool:
            has = label in image.labels and (not with_value or image.labels[label] == wanted)
            return has != negated

        return matches
    raise InvalidArgument(f'filter "{text}": until=TIME, label=KEY[=VALUE] or label!=KEY[=VALUE] is expected')


def _moment(text: str) -> int:
    """Return the nanoseconds since the epoch of "24h" ago, of a date or time (UTC unless it says otherwise), or of
    seconds since the epoch."""
    from datetime import UTC, datetime

    if text.isdecimal():
        return int(text) * 1_000_000_000
    match = _DURATION.fullmatch(text)
    if match is not None and text:
        seconds = sum(int(count or 0) * each for count, each in zip(match.groups(), _SECONDS, strict=True))
        return time.time_ns() - seconds * 1_000_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f'time "{text}": as in 24h, 1d12h, 2026-01-31, 2026-01-31T12:00:00Z') from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000

"""Worlds of blobs, snapshots, images, containers, leases and ingests that refer to each other, made through the API."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.content.v1 import content_pb2
from wherry.api.services.images.v1 import images_pb2
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.snapshots.v1 import snapshots_pb2
from wherry.api.types.types_pb2 import Descriptor
from wherry.api.wellknown_pb2 import Any
from wherry.client.client import Client
from wherry.client.garbage import Inventory
from wherry.errors import AlreadyExists
from wherry.rpc.channel import Stub

GC = "containerd.io/gc."
PAST = "2001-02-03T04:05:06Z"
FUTURE = "2999-12-31T23:59:59.5+01:00"
SNAPSHOTTER = "overlayfs"

#: In every world, a thing is named by its kind and number.
Name = tuple[str, int]
#: A label: what is behind GC (a "?" stands for the snapshotter), and what its value names, or says.
Label = tuple[str, Name | str]


@dataclass
class World:
    blobs: dict[int, list[Label]] = field(default_factory=dict)
    #: With the number of the parent.
    snapshots: dict[int, tuple[int | None, bool, list[Label]]] = field(default_factory=dict)
    #: With the number of the blob that is the target, which need not be there.
    images: dict[int, tuple[int, list[Label]]] = field(default_factory=dict)
    containers: dict[int, tuple[int | None, list[Label]]] = field(default_factory=dict)
    leases: dict[int, tuple[list[Label], list[Name]]] = field(default_factory=dict)
    #: With the number of the blob that is expected.
    ingests: dict[int, int | None] = field(default_factory=dict)


def data(number: int) -> bytes:
    return f"blob {number}".encode()


def digest(number: int) -> str:
    return "sha256:" + hashlib.sha256(data(number)).hexdigest()


def key(name: Name | str) -> str:
    """What a name is on the wire."""
    if isinstance(name, str):
        return name
    kind, number = name
    return digest(number) if kind == "content" else f"{kind}-{number}"


#: What labels of containerd 1.6 are about, and those of 2.x.
REFERENCES = {
    "1.6": {
        "content": ["ref.content", "ref.content.x", "ref.content/x", "ref.contents", "ref.content.l.0"],
        "snapshot": ["ref.snapshot.?", "ref.snapshot.?/x", "ref.snapshot.other"],
    },
    "2.x": {
        "content": [
            "ref.content",
            "ref.content.x",
            "bref.content",
            "bref.content.x",
            "bref.content/1",
            "bref.contents",
        ],
        "snapshot": ["ref.snapshot.?", "ref.snapshot.?/x", "bref.snapshot.?", "bref.snapshot.?/y"],
        "image": ["ref.image", "ref.image.a", "bref.image", "bref.image/1", "ref.imagery"],
        "container": ["bref.container", "bref.container.1", "ref.container"],
    },
}


@st.composite
def worlds(draw: st.DrawFn, version: str) -> World:
    counts = {"content": 7, "snapshot": 5, "image": 3, "container": 2}
    references = REFERENCES[version]

    def name(kind: str) -> st.SearchStrategy[Name]:
        # One more than there are: references to what is not there.
        return st.tuples(st.just(kind), st.integers(0, counts[kind]))

    referring = st.one_of([st.tuples(st.sampled_from(labels), name(kind)) for kind, labels in references.items()])

    def labels(*more: Label, likely: int = 3) -> list[Label]:
        found: list[Label] = draw(st.lists(referring, min_size=1, max_size=likely))
        return found + [label for label in more if draw(st.integers(0, 5)) == 0]

    world = World()
    conditional: list[Label] = []
    used: list[Label] = []
    if version == "2.x":
        conditional = [
            ("cond.snapshot.?", f"usedat{sign}{age}|snapshot-{draw(st.integers(0, 4))}")
            for sign in "<>"
            for age in ("1h", "9000h,x=1", "1h,usedat>9000h")
        ]
        used = [("cond.value-usedat", "now"), ("cond.value-usedat", PAST), ("cond.value-usedat", "never")]
    for number in range(draw(st.integers(0, counts["content"]))):
        world.blobs[number] = labels(("root", "1"), *conditional)
    for number in range(draw(st.integers(0, counts["snapshot"]))):
        committed = [other for other, (_parent, is_committed, _labels) in world.snapshots.items() if is_committed]
        parent = draw(st.none() | st.sampled_from(committed)) if committed else None
        world.snapshots[number] = parent, draw(st.integers(0, 3)) > 0, labels(("root", "1"), *used)
    expiries: list[Label] = [("expire", PAST), ("expire", FUTURE), ("expire", "soon"), ("expire", "2001-02-03")]
    for number in range(draw(st.integers(0, counts["image"]))):
        of_image = [*expiries, *expiries[:1] * 3, *conditional] if version == "2.x" else []
        world.images[number] = draw(st.integers(0, counts["content"])), labels(*of_image)
    for number in range(draw(st.integers(0, counts["container"]))):
        world.containers[number] = draw(st.none() | st.integers(0, counts["snapshot"])), labels()
    holdable = ["content", "snapshot", "ingest"] + (["image"] if version == "2.x" else [])
    held = st.tuples(st.sampled_from(holdable), st.integers(0, 5))
    for number in range(draw(st.integers(0, 2))):
        own = [label for label in (*expiries, ("flat", "1"), ("flat", "1")) if draw(st.integers(0, 3)) == 0]
        world.leases[number] = own, draw(st.lists(held, max_size=3))
    for number in range(draw(st.integers(0, 1))):
        world.ingests[number] = draw(st.none() | st.integers(0, counts["content"]))
    return world


def labels_of(labels: Sequence[Label]) -> dict[str, str]:
    found = {}
    for name, value in labels:
        if value == "now":
            value = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        found[GC + name.replace("?", SNAPSHOTTER)] = key(value)
    return found


class Maker:
    """Makes worlds in one namespace of a daemon, where a lease holds all until it is let go."""

    def __init__(self, client: Client) -> None:
        self.client = Client(client.channel, client.namespace, "hold")
        self._leases = Stub(client.channel, leases_pb2.DESCRIPTOR.services_by_name["Leases"])
        self._content = Stub(client.channel, content_pb2.DESCRIPTOR.services_by_name["Content"])
        self._images = Stub(client.channel, images_pb2.DESCRIPTOR.services_by_name["Images"])
        self._snapshots = Stub(client.channel, snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"])

    async def lease(self, id: str, labels: dict[str, str]) -> None:
        metadata = Client(self.client.channel, self.client.namespace).metadata
        await self._leases.create(leases_pb2.CreateRequest(id=id, labels=labels), metadata=metadata)

    async def make(self, world: World) -> None:
        await self.lease("hold", {})
        for number, labels in world.blobs.items():
            await self.blob(number, labels)
        for number, expected in world.ingests.items():
            await self._ingest(number, expected)
        for number, (parent, committed, labels) in world.snapshots.items():
            await self.snapshot(number, parent, committed, labels)
        for number, (snapshot, labels) in world.containers.items():
            await self.container(number, snapshot, labels)
        for number, (target, labels) in world.images.items():
            await self.image(number, target, labels)
        for number, (labels, held) in world.leases.items():
            await self.lease(f"lease-{number}", labels_of(labels))
            for kind, of in held:
                await self.hold(f"lease-{number}", (kind, of))

    async def hold(self, lease: str, name: Name) -> None:
        kind = {"snapshot": f"snapshots/{SNAPSHOTTER}", "ingest": "ingests", "image": "images"}.get(name[0], "content")
        resource = leases_pb2.Resource(type=kind, id=key(name))
        await self._leases.add_resource(
            leases_pb2.AddResourceRequest(id=lease, resource=resource), metadata=self.client.metadata
        )

    async def blob(self, number: int, labels: Sequence[Label] = ()) -> None:
        await self.client.content.write(f"blob-{number}", [data(number)], labels=labels_of(labels))

    async def _ingest(self, number: int, expected: int | None) -> None:
        wanted = "" if expected is None else digest(expected)
        message = content_pb2.WriteContentRequest(
            action=content_pb2.WRITE, ref=f"ingest-{number}", data=b"x", expected=wanted
        )

        async def messages() -> AsyncIterator[content_pb2.WriteContentRequest]:
            yield message

        try:
            async for _response in self._content.write(messages(), metadata=self.client.metadata):
                pass
        except AlreadyExists:
            pass  # the blob is there

    async def snapshot(self, number: int, parent: int | None, committed: bool, labels: Sequence[Label] = ()) -> None:
        own = key(("snapshot", number))
        below = "" if parent is None else key(("snapshot", parent))
        snapshots = self.client.snapshots(SNAPSHOTTER)
        await snapshots.prepare(own + "-active" if committed else own, below, labels_of(labels))
        if committed:
            await snapshots.commit(own, own + "-active", labels_of(labels))

    async def container(self, number: int, snapshot: int | None, labels: Sequence[Label] = ()) -> None:
        container = containers_pb2.Container(
            id=key(("container", number)),
            labels=labels_of(labels),
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
            spec=Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}"),
            snapshotter="" if snapshot is None else SNAPSHOTTER,
            snapshot_key="" if snapshot is None else key(("snapshot", snapshot)),
        )
        request = containers_pb2.CreateContainerRequest(container=container)
        await self.client.containers.create(request, metadata=self.client.metadata)

    async def image(self, number: int, target: int, labels: Sequence[Label] = ()) -> None:
        descriptor = Descriptor(media_type="application/x", digest=digest(target), size=1)
        image = images_pb2.Image(name=key(("image", number)), target=descriptor, labels=labels_of(labels))
        await self._images.create(images_pb2.CreateImageRequest(image=image), metadata=self.client.metadata)
        if any(name == "expire" for name, _value in labels):
            # It joined the lease, in 2.x.
            resource = leases_pb2.Resource(type="images", id=key(("image", number)))
            await self._leases.delete_resource(
                leases_pb2.DeleteResourceRequest(id="hold", resource=resource), metadata=self.client.metadata
            )

    async def inventory(self) -> Inventory:
        """All that there is, in the one snapshotter."""
        return await Inventory.read(self.client, [SNAPSHOTTER])

    async def let_go(self) -> None:
        """Delete the lease that holds all, and wait for the collection."""
        await self.client.leases.delete("hold", sync=True)

    async def left(self) -> set[tuple[str, str]]:
        """What there is."""
        inventory = await self.inventory()
        return inventory.nodes() | {("ingests", status.ref) for status in inventory.ingests}

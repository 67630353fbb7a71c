"""What a daemon's next collection will remove from a namespace, found out by asking it for all that there is.

The rules are containerd's, as metadata/gc.go of 2.x has them; 1.6 knows neither references to images nor those that
lead back (``gc.bref``) nor images that expire. It looks at a namespace as it is while it is read, so what others do
meanwhile may prove it wrong: for telling people, not for deciding.
"""

from __future__ import annotations

import time
from datetime import datetime

from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.leases.v1 import leases_pb2
from wherry.client.server import plugins
from wherry.errors import InvalidArgument, NotFound
from wherry.oci import duration
from wherry.rpc.channel import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from wherry.api.services.containers.v1.containers_pb2 import Container
    from wherry.api.services.content.v1.content_pb2 import Info as BlobInfo
    from wherry.api.services.content.v1.content_pb2 import Status
    from wherry.api.services.images.v1.images_pb2 import Image
    from wherry.api.services.leases.v1.leases_pb2 import Lease, Resource
    from wherry.api.services.snapshots.v1.snapshots_pb2 import Info as SnapshotInfo
    from wherry.client.client import Client

    #: Kind (content, images, containers, leases, ingests, snapshots/<snapshotter>) and digest, name, id, ref or key.
    Node = tuple[str, str]

_PREFIX = "containerd.io/gc."


class Inventory:
    """All that there is in a namespace."""

    def __init__(self) -> None:
        self.images: list[Image] = []
        self.containers: list[Container] = []
        self.blobs: list[BlobInfo] = []
        self.ingests: list[Status] = []
        self.leases: list[tuple[Lease, list[Resource]]] = []
        #: Of each snapshotter.
        self.snapshots: dict[str, list[SnapshotInfo]] = {}

    @classmethod
    async def read(cls, client: Client, snapshotters: Iterable[str] | None = None) -> Inventory:
        """Ask a daemon; about these snapshotters, or (None) about all that it says it has."""
        found = cls()
        if snapshotters is None:
            loaded = await plugins(client, ["type==io.containerd.snapshotter.v1"])
            snapshotters = [plugin.id for plugin in loaded if not plugin.HasField("init_err")]
        # What is kept first: what is made meanwhile is not seen, but what it keeps then is.
        found.blobs = await client.content.list()
        for name in snapshotters:
            found.snapshots[name] = await client.snapshots(name).list()
        found.ingests = await client.content.statuses()
        found.leases = await _leases(client)
        request = containers_pb2.ListContainersRequest()
        found.containers = list((await client.containers.list(request, metadata=client.metadata)).containers)
        found.images = await client.images.list()
        return found

    def nodes(self) -> set[Node]:
        """Return all that can be collected."""
        found: set[Node] = {("content", blob.digest) for blob in self.blobs}
        found |= {(f"snapshots/{name}", info.name) for name, infos in self.snapshots.items() for info in infos}
        found |= {("images", image.name) for image in self.images}
        return found | {("leases", lease.id) for lease, _resources in self.leases}

    def garbage(self, without_images: Collection[str] = (), now: float | None = None) -> set[Node]:
        """Return what nothing keeps, were these images removed, at a time (seconds; None: now)."""
        graph = _Graph(time.time() if now is None else now)
        for blob in self.blobs:
            graph.add(("content", blob.digest), blob.labels)
        for name, infos in self.snapshots.items():
            for info in infos:
                parent = [(f"snapshots/{name}", info.parent)] if info.parent else []
                graph.add((f"snapshots/{name}", info.name), info.labels, parent)
        for image in self.images:
            if image.name not in without_images:
                graph.add(("images", image.name), image.labels, [("content", image.target.digest)])
                if not graph.is_over(image.labels):
                    graph.roots.append(("images", image.name))
        for container in self.containers:
            own = [(f"snapshots/{container.snapshotter}", container.snapshot_key)] if container.snapshot_key else []
            graph.add(("containers", container.id), container.labels, own)
            graph.roots.append(("containers", container.id))
        for status in self.ingests:
            graph.add(("ingests", status.ref), {}, [("content", status.expected)] if status.expected else [])
            graph.roots.append(("ingests", status.ref))
        for lease, resources in self.leases:
            graph.lease(lease, resources)
        removed = {("images", name) for name in without_images}
        return self.nodes() - graph.kept() - removed


async def _leases(client: Client) -> list[tuple[Lease, list[Resource]]]:
    stub = Stub(client.channel, leases_pb2.DESCRIPTOR.services_by_name["Leases"])
    found = []
    for lease in await client.leases.list():
        request = leases_pb2.ListResourcesRequest(id=lease.id)
        try:
            response = await stub.list_resources(request, metadata=client.metadata)
        except NotFound:
            continue  # gone meanwhile
        found.append((lease, list(response.resources)))
    return found


class _Graph:
    """Things, what each keeps by what it is and by labels, and what is kept for its own sake."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.roots: list[Node] = []
        self._flat_roots: list[Node] = []
        #: What each thing keeps by what it is, and by labels, its own and those that lead back to it.
        self._own: dict[Node, list[Node]] = {}
        self._labelled: dict[Node, list[Node]] = {}
        self._conditions: list[tuple[Node, Node, str]] = []
        self._used: dict[Node, float] = {}

    def is_over(self, labels: Mapping[str, str]) -> bool:
        """Tell whether what has these labels has expired."""
        at = _time(labels.get(_PREFIX + "expire", ""))
        return at is not None and at < self._now

    def add(self, node: Node, labels: Mapping[str, str], own: Iterable[Node] = ()) -> None:
        """Add a thing and what it keeps by what it is."""
        self._own[node] = list(own)
        for label, value in labels.items():
            if not label.startswith(_PREFIX):
                continue
            verb, _, what = label[len(_PREFIX) :].partition(".")
            if label.startswith(_PREFIX + "root") and node[0] != "images" and node[0] != "containers":
                self.roots.append(node)
            elif verb in ("ref", "bref") and (other := _referred(what, value, verb == "bref")) is not None:
                source, target = (node, other) if verb == "ref" else (other, node)
                self._labelled.setdefault(source, []).append(target)
            elif label.startswith(_PREFIX + "cond.snapshot") and node[0] in ("content", "images"):
                snapshotter = label[len(_PREFIX + "cond.snapshot") :].lstrip("./").partition("/")[0]
                conditions, _, key = value.partition("|")
                target = f"snapshots/{snapshotter}", key
                self._conditions += [(node, target, condition) for condition in conditions.split(",")]
            elif label.startswith(_PREFIX + "cond.value-usedat") and (at := _time(value)) is not None:
                self._used[node] = at

    def lease(self, lease: Lease, resources: Iterable[Resource]) -> None:
        """Add a lease and what it holds."""
        if self.is_over(lease.labels):
            return
        self.roots.append(("leases", lease.id))
        flat = _PREFIX + "flat" in lease.labels
        for resource in resources:
            held = self._flat_roots if flat and resource.type != "ingests" else self.roots
            held.append((resource.type, resource.id))

    def kept(self) -> set[Node]:
        """Return all that is kept."""
        for node, target, condition in self._conditions:
            if target in self._used and _holds(condition, self._now - self._used[target]):
                self._labelled.setdefault(node, []).append(target)
        kept = self._reached(self.roots, self._own, self._labelled)
        return kept | self._reached(self._flat_roots, self._own)

    def _reached(self, roots: Iterable[Node], *edges: Mapping[Node, list[Node]]) -> set[Node]:
        reached: set[Node] = set()
        waiting = list(roots)
        while waiting:
            node = waiting.pop()
            if node not in reached:
                reached.add(node)
                for each in edges:
                    waiting += each.get(node, ())
        return reached


def _referred(what: str, value: str, back: bool) -> Node | None:
    """Return what a label names: `what` is the label behind ``ref.``."""
    if what.startswith("snapshot."):
        return f"snapshots/{what.removeprefix('snapshot.').partition('/')[0]}", value
    for word, kind in (("content", "content"), ("image", "images"), ("container", "containers")):
        if (what == word or what.startswith((word + ".", word + "/"))) and (back or word != "container"):
            return kind, value
    return None


def _holds(condition: str, age: float) -> bool:
    for sign in ("<", ">"):
        name, found, text = condition.partition(sign)
        if found and name == "usedat":
            try:
                limit = duration.parse(text) / 1e9
            except InvalidArgument:
                return False
            return age < limit if sign == "<" else age > limit
    return False


def _time(text: str) -> float | None:
    """Return a time (RFC 3339) in seconds; None for what is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo is not None and "T" in text else None

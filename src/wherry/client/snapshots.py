"""Snapshots: a container's writable root and the layers below it, through a daemon's Snapshots service."""

from __future__ import annotations

from wherry.api.services.snapshots.v1 import snapshots_pb2
from wherry.errors import NotFound
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from wherry.api.services.snapshots.v1.snapshots_pb2 import Info as Info
    from wherry.api.services.snapshots.v1.snapshots_pb2 import UsageResponse
    from wherry.api.types.types_pb2 import Mount
    from wherry.rpc.channel import Channel

DEFAULT_SNAPSHOTTER = "overlayfs"

#: A label of a namespace: the snapshotter for what names none, as for Go clients.
DEFAULT_LABEL = "containerd.io/defaults/snapshotter"

_KINDS = {snapshots_pb2.VIEW: "view", snapshots_pb2.ACTIVE: "active", snapshots_pb2.COMMITTED: "committed"}


class Snapshots:
    """A namespace's snapshots in one snapshotter. What is made joins the lease, if there is one."""

    def __init__(self, channel: Channel, namespace: str, snapshotter: str = "", lease: str = "") -> None:
        """Without a name the snapshotter is the namespace's own default, or overlayfs."""
        self._channel = channel
        self._namespace = namespace
        self._stub = Stub(channel, snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"])
        self._metadata = metadata_for(namespace, lease)
        #: The snapshotter's name; "" until the first call if none was given.
        self.snapshotter = snapshotter

    async def _name(self) -> str:
        if not self.snapshotter:
            self.snapshotter = await self._default()
        return self.snapshotter

    async def _default(self) -> str:
        from wherry.api.services.namespaces.v1 import namespaces_pb2

        stub = Stub(self._channel, namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"])
        request = namespaces_pb2.GetNamespaceRequest(name=self._namespace)
        try:
            response = await stub.get(request, metadata=self._metadata)
        except NotFound:  # it comes into being with the first thing in it
            return DEFAULT_SNAPSHOTTER
        return response.namespace.labels.get(DEFAULT_LABEL) or DEFAULT_SNAPSHOTTER

    async def stat(self, key: str) -> Info:
        """Return a snapshot's parent, kind, times and labels. NotFound if there is none."""
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=await self._name(), key=key)
        info: Info = (await self._stub.stat(request, metadata=self._metadata)).info
        return info

    async def prepare(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Make a writable snapshot on a committed one and return its mounts.

        AlreadyExists for a key in use (and for a label containerd.io/snapshot.ref that names a snapshot), NotFound for
        a parent that is not there.
        """
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=await self._name(), key=key, parent=parent, labels=labels
        )
        return list((await self._stub.prepare(request, metadata=self._metadata)).mounts)

    async def view(self, key: str, parent: str = "", labels: Mapping[str, str] | None = None) -> list[Mount]:
        """Make a read-only snapshot on a committed one and return its mounts. Raises as `prepare`."""
        request = snapshots_pb2.ViewSnapshotRequest(
            snapshotter=await self._name(), key=key, parent=parent, labels=labels
        )
        return list((await self._stub.view(request, metadata=self._metadata)).mounts)

    async def mounts(self, key: str) -> list[Mount]:
        """Return the mounts of a snapshot made by `prepare` or `view`."""
        request = snapshots_pb2.MountsRequest(snapshotter=await self._name(), key=key)
        return list((await self._stub.mounts(request, metadata=self._metadata)).mounts)

    async def commit(self, name: str, key: str, labels: Mapping[str, str] | None = None, *, parent: str = "") -> None:
        """Turn a writable snapshot into a committed one, on another parent if one is named: a snapshotter with the
        capability `rebase` does that for one without any. AlreadyExists if the name is in use."""
        request = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=await self._name(), name=name, key=key, labels=labels, parent=parent
        )
        await self._stub.commit(request, metadata=self._metadata)

    async def remove(self, key: str) -> None:
        """Remove a snapshot. NotFound if there is none, FailedPrecondition if others stand on it."""
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=await self._name(), key=key)
        await self._stub.remove(request, metadata=self._metadata)

    async def usage(self, key: str) -> UsageResponse:
        """Return the bytes and inodes of a snapshot without those below it."""
        request = snapshots_pb2.UsageRequest(snapshotter=await self._name(), key=key)
        usage: UsageResponse = await self._stub.usage(request, metadata=self._metadata)
        return usage

    async def list(self, filters: Iterable[str] = ()) -> list[Info]:
        """Return the snapshots that match one of the filters; all of them if there is none."""
        infos: list[Info] = []
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=await self._name(), filters=filters)
        async for response in self._stub.list(request, metadata=self._metadata):
            infos.extend(response.info)
        return infos


def kind_of(info: Info) -> str:
    """Return "view", "active" or "committed"."""
    return _KINDS.get(info.kind, "unknown")

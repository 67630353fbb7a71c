"""A client of one daemon and one namespace: the services as stubs, images, and containers to run."""

from __future__ import annotations

from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from wherry.client.content import Content
    from wherry.client.images import Images
    from wherry.client.leases import Leases
    from wherry.client.snapshots import Snapshots
    from wherry.rpc.channel import Channel


class Client:
    """The coroutines of an SDK, over any channel. A lease's id may be given for all that is made through it."""

    def __init__(self, channel: Channel, namespace: str = "default", lease: str = "") -> None:
        self.channel = channel
        self.namespace = namespace
        self.lease = lease
        self._stubs: dict[str, Stub] = {}

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What every call carries."""
        return metadata_for(self.namespace, self.lease)

    def _stub(self, descriptor: ServiceDescriptor) -> Stub:
        stub = self._stubs.get(descriptor.full_name)
        if stub is None:
            stub = self._stubs[descriptor.full_name] = Stub(self.channel, descriptor)
        return stub

    @property
    def containers(self) -> Stub:
        from wherry.api.services.containers.v1 import containers_pb2

        return self._stub(containers_pb2.DESCRIPTOR.services_by_name["Containers"])

    @property
    def tasks(self) -> Stub:
        from wherry.api.services.tasks.v1 import tasks_pb2

        return self._stub(tasks_pb2.DESCRIPTOR.services_by_name["Tasks"])

    @property
    def events(self) -> Stub:
        from wherry.api.services.events.v1 import events_pb2

        return self._stub(events_pb2.DESCRIPTOR.services_by_name["Events"])

    @property
    def namespaces(self) -> Stub:
        from wherry.api.services.namespaces.v1 import namespaces_pb2

        return self._stub(namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"])

    @property
    def introspection(self) -> Stub:
        from wherry.api.services.introspection.v1 import introspection_pb2

        return self._stub(introspection_pb2.DESCRIPTOR.services_by_name["Introspection"])

    @property
    def version(self) -> Stub:
        from wherry.api.services.version.v1 import version_pb2

        return self._stub(version_pb2.DESCRIPTOR.services_by_name["Version"])

    @property
    def content(self) -> Content:
        """The namespace's blobs."""
        from wherry.client.content import Content

        return Content(self.channel, self.namespace, self.lease)

    @property
    def images(self) -> Images:
        """The namespace's images."""
        from wherry.client.images import Images

        return Images(self.channel, self.namespace, self.lease)

    @property
    def leases(self) -> Leases:
        """The namespace's leases."""
        from wherry.client.leases import Leases

        return Leases(self.channel, self.namespace)

    def snapshots(self, snapshotter: str = "", lease: str = "") -> Snapshots:
        """The namespace's snapshots in a snapshotter."""
        from wherry.client.snapshots import Snapshots

        return Snapshots(self.channel, self.namespace, snapshotter, lease or self.lease)

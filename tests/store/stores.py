"""The stores behind their services in this process, and Debian's containerd behind the same calls."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import ServiceDescriptor

from tests.harness.daemon import Daemon
from wherry.api.services.content.v1 import content_pb2
from wherry.api.services.diff.v1 import diff_pb2
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.namespaces.v1 import namespaces_pb2
from wherry.api.services.snapshots.v1 import snapshots_pb2
from wherry.api.types.types_pb2 import Descriptor
from wherry.daemon.collector import Collector
from wherry.daemon.exchange import Exchange
from wherry.daemon.services.containers import ContainersService
from wherry.daemon.services.content import ContentService
from wherry.daemon.services.diff import DiffService
from wherry.daemon.services.images import ImagesService
from wherry.daemon.services.leases import LeasesService
from wherry.daemon.services.namespaces import NamespacesService
from wherry.daemon.services.snapshots import SnapshotsService
from wherry.errors import Error
from wherry.images import process
from wherry.oci import digest as digests
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.local_channel import LocalChannel
from wherry.store.containers import ContainerStore
from wherry.store.content import ContentStore
from wherry.store.database import Database
from wherry.store.images import ImageStore
from wherry.store.leases import LeaseStore
from wherry.store.namespaces import NamespaceStore
from wherry.store.snapshots import snapshotters

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel


class Stores:
    """Database, content and snapshots below one directory; opened again, they are the daemon after a restart."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = Database(directory / "meta.db")
        self.content = ContentStore(self.database, os.path.join(directory, "content"))
        copy = process.copier(process.spawn_subprocess)
        settle = process.settler(process.spawn_subprocess)
        self.snapshotters = snapshotters(self.database, os.fspath(directory), copy, settle)
        self.exchange = Exchange()
        self.collector = Collector(self.database, self.content, self.snapshotters, self.exchange)

    def channel(self) -> LocalChannel:
        return LocalChannel(
            [
                ContentService(self.content, self.collector),
                SnapshotsService(self.snapshotters, self.exchange, self.collector),
                ImagesService(ImageStore(self.database), self.exchange, self.collector),
                ContainersService(ContainerStore(self.database), self.exchange, self.collector),
                DiffService(self.content, process.spawn_subprocess, os.path.join(self.directory, "layers")),
                LeasesService(LeaseStore(self.database), self.collector),
                NamespacesService(NamespaceStore(self.database), self.exchange),
            ]
        )

    async def close(self) -> None:
        for snapshotter in self.snapshotters.values():
            await snapshotter.close()
        self.database.close()


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Stores]:
    stores = Stores(directory)
    try:
        yield stores
    finally:
        await stores.close()


class Client:
    """The services of one daemon, under one namespace."""

    def __init__(self, channel: Channel, new_namespace: Callable[[], str], root: str = "") -> None:
        self.channel = channel
        self.namespace = new_namespace()
        self.new_namespace = new_namespace
        #: Where the daemon keeps its files: what in its answers is its own, not the protocol's.
        self.root = root

    def metadata(self, namespace: str = "", lease: str = "") -> list[tuple[str, str]]:
        return metadata_for(namespace or self.namespace, lease)

    def _stub(self, descriptor: ServiceDescriptor) -> Stub:
        return Stub(self.channel, descriptor)

    @property
    def content(self) -> Stub:
        return self._stub(content_pb2.DESCRIPTOR.services_by_name["Content"])

    @property
    def snapshots(self) -> Stub:
        return self._stub(snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"])

    @property
    def diff(self) -> Stub:
        return self._stub(diff_pb2.DESCRIPTOR.services_by_name["Diff"])

    @property
    def leases(self) -> Stub:
        return self._stub(leases_pb2.DESCRIPTOR.services_by_name["Leases"])

    @property
    def namespaces(self) -> Stub:
        return self._stub(namespaces_pb2.DESCRIPTOR.services_by_name["Namespaces"])

    async def write_layer(self, data: bytes) -> Descriptor:
        """Put a layer into the content store, and describe it."""
        digest = digests.of(data)
        write = content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=digest, data=data)
        commit = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT, ref=digest, offset=len(data), expected=digest
        )
        found = await self.stream(self.content, "write", requests([write, commit]))
        assert found[-1] == "AlreadyExists" or found[-1].digest == digest, found[-1]
        return Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=digest, size=len(data))

    async def outcome(self, stub: Stub, method: str, request: Any, **context: str) -> Any:
        """The response, or the name of the kind of error."""
        try:
            return await getattr(stub, method)(request, metadata=self.metadata(**context))
        except Error as error:
            return type(error).__name__

    async def stream(self, stub: Stub, method: str, request: Any, **context: str) -> list[Any]:
        """The responses, ended by the name of the kind of error if there was one."""
        responses: list[Any] = []
        try:
            async for response in getattr(stub, method)(request, metadata=self.metadata(**context)):
                responses.append(response)
        except Error as error:
            responses.append(type(error).__name__)
        return responses


async def requests(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message


def local_client(stores: Stores) -> Client:
    count = iter(range(1000))
    return Client(stores.channel(), lambda: f"namespace-{next(count)}", os.fspath(stores.directory))


def containerd_client(daemon: Daemon) -> Client:
    return Client(GrpcChannel(daemon.address), lambda: f"n{uuid.uuid4().hex}", os.fspath(daemon.root))

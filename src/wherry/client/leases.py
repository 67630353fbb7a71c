"""Leases: what holds blobs and snapshots while nothing else refers to them yet."""

from __future__ import annotations

import time
from binascii import b2a_base64
from os import urandom

from wherry.api.services.leases.v1 import leases_pb2
from wherry.errors import Error, NotFound
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from wherry.api.services.leases.v1 import leases_pb2 as messages
    from wherry.rpc.channel import Channel

#: Seconds after which the daemon drops a lease whose maker died: as Go's client.
EXPIRES_AFTER = 24 * 3600


class Leases:
    """A namespace's leases."""

    def __init__(self, channel: Channel, namespace: str) -> None:
        self._stub = Stub(channel, leases_pb2.DESCRIPTOR.services_by_name["Leases"])
        self._namespace = namespace

    async def list(self, filters: Iterable[str] = ()) -> list[messages.Lease]:
        """Return the leases that match one of the filters."""
        request = leases_pb2.ListRequest(filters=filters)
        response = await self._stub.list(request, metadata=metadata_for(self._namespace))
        return list(response.leases)

    async def create(self, lease: str, labels: Mapping[str, str] | None = None) -> None:
        """Create a lease that stays until it is deleted. AlreadyExists for an id in use."""
        await self._stub.create(
            leases_pb2.CreateRequest(id=lease, labels=labels), metadata=metadata_for(self._namespace)
        )

    async def delete(self, lease: str, *, sync: bool = False) -> None:
        """Delete a lease; with `sync`, return when what it alone held has been collected. NotFound if there is none."""
        request = leases_pb2.DeleteRequest(id=lease, sync=sync)
        await self._stub.delete(request, metadata=metadata_for(self._namespace, lease))

    async def add(self, lease: str, kind: str, identifier: str) -> None:
        """Let a lease hold a thing that is there already: kind "content" or "snapshots/<snapshotter>". NotFound for an
        unknown lease."""
        resource = leases_pb2.Resource(type=kind, id=identifier)
        request = leases_pb2.AddResourceRequest(id=lease, resource=resource)
        await self._stub.add_resource(request, metadata=metadata_for(self._namespace, lease))

    def hold(self) -> Lease:
        """Return a lease to be used with ``async with``: made there, deleted when the block ends, however it ends."""
        return Lease(self, self._stub, self._namespace)


class Lease:
    """A lease that lives as long as a block. `id` is its name."""

    def __init__(self, leases: Leases, stub: Stub, namespace: str) -> None:
        self._leases = leases
        self._stub = stub
        self._namespace = namespace
        # Go's form: the time in nanoseconds and four letters.
        self.id = f"{time.time_ns()}-{_letters()}"

    async def __aenter__(self) -> Lease:
        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + EXPIRES_AFTER))
        await self._stub.create(
            leases_pb2.CreateRequest(id=self.id, labels={"containerd.io/gc.expire": expires}),
            metadata=metadata_for(self._namespace),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._stub.delete(
                leases_pb2.DeleteRequest(id=self.id), metadata=metadata_for(self._namespace, self.id)
            )
        except NotFound:
            pass  # it expired, or somebody took it away: it is gone
        except Error:
            if error is None:
                raise  # else what ended the block is the thing to tell; the lease expires

    async def add(self, kind: str, identifier: str) -> None:
        """Let the lease hold a thing that is there already: kind "content" or "snapshots/<snapshotter>"."""
        await self._leases.add(self.id, kind, identifier)


def _letters() -> str:
    """Return four letters by chance, of base64's for file names."""
    return b2a_base64(urandom(3), newline=False).decode().translate({ord("+"): "-", ord("/"): "_"})

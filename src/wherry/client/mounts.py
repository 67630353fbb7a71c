"""Mounts that only the daemon can make: activated under a name, and then a client's to mount the rest."""

from __future__ import annotations

from wherry.api.services.mounts.v1 import mounts_pb2
from wherry.errors import Unimplemented
from wherry.rpc.channel import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wherry.api.types.types_pb2 import ActivationInfo as ActivationInfo
    from wherry.api.types.types_pb2 import Mount
    from wherry.client.client import Client


class Mounts:
    """A namespace's activated mounts. They are held by the client's lease, if it has one."""

    def __init__(self, client: Client) -> None:
        self._stub = Stub(client.channel, mounts_pb2.DESCRIPTOR.services_by_name["Mounts"])
        self._metadata = client.metadata

    async def activate(
        self,
        name: str,
        mounts: Sequence[Mount],
        *,
        labels: Mapping[str, str] | None = None,
        temporary: bool = False,
    ) -> ActivationInfo | None:
        """Have the daemon make what a client cannot, or with `temporary` all; `system` of the result is left to mount.

        None if the mounts may be made as they are. AlreadyExists for a name in use.
        """
        request = mounts_pb2.ActivateRequest(name=name, mounts=mounts, labels=labels, temporary=temporary)
        try:
            info: ActivationInfo = (await self._stub.activate(request, metadata=self._metadata)).info
        except Unimplemented:
            return None
        return info

    async def deactivate(self, name: str) -> None:
        """Take mounts away again. NotFound if there are none of this name."""
        await self._stub.deactivate(mounts_pb2.DeactivateRequest(name=name), metadata=self._metadata)

    async def info(self, name: str) -> ActivationInfo:
        """Return what is mounted under a name. NotFound if nothing is."""
        info: ActivationInfo = (await self._stub.info(mounts_pb2.InfoRequest(name=name), metadata=self._metadata)).info
        return info

    async def list(self, filters: Iterable[str] = ()) -> list[ActivationInfo]:
        """Return what is activated and matches one of the filters; all of it if there is none."""
        request = mounts_pb2.ListRequest(filters=filters)
        return [each.info async for each in self._stub.list(request, metadata=self._metadata)]

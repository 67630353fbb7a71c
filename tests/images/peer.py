"""Debian's containerd as the one to agree with about layers."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Sequence

from wherry.api.services.content.v1 import content_pb2
from wherry.api.services.diff.v1 import diff_pb2
from wherry.api.types import types_pb2
from wherry.errors import AlreadyExists
from wherry.linux.mount import Mount
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel

OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Peer:
    """Debian's containerd as the one to agree with."""

    def __init__(self, address: str, namespace: str) -> None:
        self.channel = GrpcChannel(address)
        self.metadata = metadata_for(namespace)
        self.content = Stub(self.channel, content_pb2.DESCRIPTOR.services_by_name["Content"])
        self.diff = Stub(self.channel, diff_pb2.DESCRIPTOR.services_by_name["Diff"])

    async def write(self, data: bytes) -> types_pb2.Descriptor:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()

        async def requests() -> AsyncIterator[content_pb2.WriteContentRequest]:
            ref = uuid.uuid4().hex
            at = 0
            for at in range(0, len(data), 1 << 20):
                piece = data[at : at + (1 << 20)]
                yield content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref=ref, offset=at, data=piece)
            yield content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT, ref=ref, offset=len(data), total=len(data), expected=digest
            )

        try:
            async for _ in self.content.write(requests(), metadata=self.metadata):
                pass
        except AlreadyExists:
            pass
        return types_pb2.Descriptor(media_type=OCI_LAYER + "+gzip", digest=digest, size=len(data))

    async def apply(self, layer: bytes, mounts: Sequence[Mount]) -> types_pb2.Descriptor:
        request = diff_pb2.ApplyRequest(
            diff=await self.write(layer),
            mounts=messages(mounts),
        )
        response: diff_pb2.ApplyResponse = await self.diff.apply(request, metadata=self.metadata)
        return response.applied

    async def make(self, left: Sequence[Mount], right: Sequence[Mount]) -> bytes:
        """The layer that containerd makes, uncompressed."""
        request = diff_pb2.DiffRequest(left=messages(left), right=messages(right), media_type=OCI_LAYER)
        made: diff_pb2.DiffResponse = await self.diff.diff(request, metadata=self.metadata)
        read = self.content.read(content_pb2.ReadContentRequest(digest=made.diff.digest), metadata=self.metadata)
        return b"".join([response.data async for response in read])


def messages(mounts: Sequence[Mount]) -> list[types_pb2.Mount]:
    return [types_pb2.Mount(type=mount.type, source=mount.source, options=mount.options) for mount in mounts]

"""containerd.services.diff.v1.Diff."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wherry.api import typeurl
from wherry.api.services.diff.v1 import diff_pb2 as api
from wherry.api.types.types_pb2 import Descriptor
from wherry.errors import AlreadyExists, Error, Unimplemented, Unknown, from_status
from wherry.images import process
from wherry.rpc.service import Service
from wherry.store.content import ContentStore, ContentWriter

if TYPE_CHECKING:
    from wherry.rpc.context import CallContext

_LAYER = "application/vnd.oci.image.layer.v1.tar"
#: Layers of these types are compressed in whatever way their first octets say, or not at all.
_COMPRESSED = frozenset(
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        f"{_LAYER}+gzip",
        f"{_LAYER}+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    )
)
_PLAIN = frozenset((_LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar"))

#: The layer types that can be made, and their compressions.
_MADE = {_LAYER: "", f"{_LAYER}+gzip": "gzip", f"{_LAYER}+zstd": "zstd"}

_UNCOMPRESSED = "containerd.io/uncompressed"


def check_applicable(media_type: str) -> None:
    """Check that a layer of a media type can be applied. Unknown for any other, as containerd has it."""
    if media_type in _COMPRESSED or media_type in _PLAIN:
        return
    text = f"failed to get stream processor for {media_type}: no processor for media-type"
    if media_type.endswith("+encrypted"):
        text += ": wherry has no decoder for encrypted layers; decrypt the image first, as with skopeo or imgcrypt"
    raise Unknown(text)


class DiffService(Service):
    """Layers applied to mounts, and made from the difference of two sets of them, each by a process of its own."""

    descriptor = api.DESCRIPTOR.services_by_name["Diff"]

    def __init__(self, store: ContentStore, spawn: process.Spawn, directory: str) -> None:
        """`directory` is where workers mount what must be mounted, each in its own mount namespace."""
        self._store = store
        self._spawn = spawn
        self._mount_points = [os.path.join(directory, name) for name in ("left", "right")]
        for mount_point in self._mount_points:
            os.makedirs(mount_point, mode=0o700, exist_ok=True)

    async def apply(self, request: Any, context: CallContext) -> api.ApplyResponse:
        layer = request.diff
        check_applicable(layer.media_type)
        arguments = {
            "action": "apply",
            "mounts": _described(request.mounts),
            "mount_point": self._mount_points[0],
            "compressed": layer.media_type in _COMPRESSED,
            "sync": request.sync_fs,
        }
        answer = await self._apply(context, layer.digest, arguments)
        return api.ApplyResponse(applied=Descriptor(media_type=_LAYER, digest=answer["digest"], size=answer["size"]))

    async def _apply(self, context: CallContext, digest: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with contextlib.ExitStack() as stack:
            try:
                if context.may_follow and not self._store.has(context.namespace, digest):
                    following = self._store.follow(context.namespace, digest)
                    stack.callback(following.close)
                    work = process.run_following(self._spawn, arguments, following)
                else:
                    fd, _size = self._store.open(context.namespace, digest)
                    stack.callback(os.close, fd)
                    work = process.run(self._spawn, arguments, [fd])
            except Error as error:
                raise from_status(error.code, f"failed to get reader from content store: {error.message}") from None
            try:
                return await work
            except Error as error:
                raise from_status(error.code, f"failed to extract layer {digest}: {error.message}") from None

    async def diff(self, request: Any, context: CallContext) -> api.DiffResponse:
        media_type = request.media_type or f"{_LAYER}+gzip"
        if media_type not in _MADE:
            raise Unimplemented(f"unsupported diff media type: {media_type}")
        namespace = context.namespace
        writer = await self._store.writer(namespace, request.ref or f"diff-{uuid.uuid4()}", lease=context.lease)
        async with writer:
            try:
                answer = await self._write(request, _MADE[media_type], writer)
                labels = dict(request.labels)
                if _MADE[media_type]:
                    labels[_UNCOMPRESSED] = answer["uncompressed"]
                try:
                    await writer.commit(new=labels)
                except AlreadyExists:
                    await self._label(namespace, answer["digest"], labels)
            except BaseException:
                if not request.ref:  # nobody could go on with it
                    await writer.abort()
                raise
        return api.DiffResponse(diff=Descriptor(media_type=media_type, digest=answer["digest"], size=answer["size"]))

    async def _write(self, request: Any, compression: str, writer: ContentWriter) -> dict[str, Any]:
        await writer.truncate()
        latest = typeurl.nanoseconds(request.source_date_epoch) if request.HasField("source_date_epoch") else None
        answer = await process.run(
            self._spawn,
            {
                "action": "diff",
                "left": _described(request.left),
                "right": _described(request.right),
                "mount_points": self._mount_points,
                "compression": compression,
                "latest": latest,
            },
            [writer.fileno()],
        )
        writer.adopt(answer["digest"])
        return answer

    async def _label(self, namespace: str, digest: str, labels: Mapping[str, str]) -> None:
        """Label a blob that was there before: with what it lacks of the layer's own label."""
        uncompressed = labels.get(_UNCOMPRESSED)
        if uncompressed and _UNCOMPRESSED not in self._store.info(namespace, digest).labels:
            await self._store.update(namespace, digest, labels, [f"labels.{_UNCOMPRESSED}"])


def _described(mounts: Iterable[Any]) -> list[dict[str, Any]]:
    return [
        {"type": mount.type, "source": mount.source, "options": list(mount.options), "target": mount.target}
        for mount in mounts
    ]

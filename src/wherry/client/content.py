"""Blobs: read, written, labelled and removed through a daemon's Content service."""

from __future__ import annotations

from os import urandom

from wherry.api.services.content.v1 import content_pb2
from wherry.api.wellknown_pb2 import FieldMask
from wherry.errors import (
    AlreadyExists,
    DataLoss,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from wherry.api.services.content.v1.content_pb2 import Info, Status, WriteContentRequest
    from wherry.rpc.channel import Channel

#: Bytes of data in one message: what Go's client sends. ttrpc takes 4 MiB, gRPC 16.
PIECE = 1 << 20
#: Bytes of a manifest or a config. Registries allow 4 MiB; containerd reads 8.
MAX_DOCUMENT = 8 << 20


class Content:
    """A namespace's blobs. What is written joins the lease, if there is one."""

    def __init__(self, channel: Channel, namespace: str, lease: str = "") -> None:
        self._stub = Stub(channel, content_pb2.DESCRIPTOR.services_by_name["Content"])
        self._metadata = metadata_for(namespace, lease)

    async def info(self, digest: str) -> Info:
        """Return a blob's size, times and labels. NotFound if there is none."""
        response = await self._stub.info(content_pb2.InfoRequest(digest=digest), metadata=self._metadata)
        info: Info = response.info
        return info

    async def delete(self, digest: str) -> None:
        """Remove a blob. NotFound if there is none."""
        await self._stub.delete(content_pb2.DeleteContentRequest(digest=digest), metadata=self._metadata)

    async def update_labels(self, digest: str, labels: Mapping[str, str]) -> Info:
        """Set these labels of a blob, and take away those whose value is empty; the others stay."""
        response = await self._stub.update(
            content_pb2.UpdateRequest(
                info=content_pb2.Info(digest=digest, labels=labels),
                update_mask=FieldMask(paths=[f"labels.{key}" for key in labels]),
            ),
            metadata=self._metadata,
        )
        info: Info = response.info
        return info

    async def statuses(self, filters: Iterable[str] = ()) -> list[Status]:
        """Return the ingests under way."""
        request = content_pb2.ListStatusesRequest(filters=filters)
        response = await self._stub.list_statuses(request, metadata=self._metadata)
        return list(response.statuses)

    async def list(self, filters: Iterable[str] = ()) -> list[Info]:
        """Return the blobs that match one of the filters; all of them if there is none."""
        infos: list[Info] = []
        request = content_pb2.ListContentRequest(filters=filters)
        async for response in self._stub.list(request, metadata=self._metadata):
            infos.extend(response.info)
        return infos

    async def abort(self, ref: str) -> None:
        """Drop an ingest and its bytes. NotFound if there is none."""
        await self._stub.abort(content_pb2.AbortRequest(ref=ref), metadata=self._metadata)

    async def read(self, digest: str, offset: int = 0, size: int = 0) -> AsyncIterator[bytes]:
        """Yield a blob's bytes from an offset on, `size` of them or, for 0, all that follow."""
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        responses = self._stub.read(request, metadata=self._metadata)
        try:
            async for response in responses:
                yield response.data
        finally:
            await responses.aclose()

    async def read_document(self, digest: str) -> bytes:
        """Return a whole blob that is read into memory. InvalidArgument if it is larger than MAX_DOCUMENT bytes."""
        info = await self.info(digest)
        if info.size > MAX_DOCUMENT:
            raise InvalidArgument(f"document {digest}: {info.size} bytes, and more than {MAX_DOCUMENT} are not read")
        document = b"".join([piece async for piece in self.read(digest)])
        if len(document) != info.size:
            raise DataLoss(f"document {digest}: {len(document)} bytes came of {info.size}")
        return document

    async def write(
        self,
        ref: str,
        pieces: Iterable[bytes],
        *,
        total: int = 0,
        expected: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> str:
        """Write a blob, all or nothing, and return its digest.

        An ingest of this ref that an earlier writer left is resumed: the bytes it has are skipped in `pieces`. A blob
        that is there already is not written again (and `pieces` not used up); it gets the labels all the same. A ref
        that somebody else is writing is left to them, and one of our own used. `total` and `expected` are checked by
        the daemon unless they are 0 and "". Whatever is raised, the ingest is dropped: FailedPrecondition for a size
        or digest that is another, ResourceExhausted for a full disk, and what `pieces` raises.
        """
        offset = 0
        if expected and total > PIECE:
            try:
                offset = await self._open(ref, total, expected)
            except AlreadyExists:
                return await self._labelled(expected, labels)
            except Unavailable as error:
                if "locked" not in error.message:
                    raise
                ref = f"{ref}-{urandom(6).hex()}"
        upload = _Upload(ref, pieces, offset, total, expected, labels or {})
        try:
            await self._send(upload)
        except AlreadyExists:
            return await self._labelled(expected or upload.digest, labels)
        except BaseException as error:
            await self._drop(ref)
            if isinstance(error, Error) and "no space left on device" in error.message:
                raise ResourceExhausted(error.message) from None
            if isinstance(error, FailedPrecondition) and offset:
                text = error.message.removesuffix(": " + error.kind)
                raise FailedPrecondition(f"{text} (after {offset} bytes that an interrupted write left)") from None
            raise
        return upload.digest

    async def _open(self, ref: str, total: int, expected: str) -> int:
        """Return how many bytes an ingest has. The stream is over when this returns, so the ref is free for `_send`."""

        async def stat() -> AsyncIterator[WriteContentRequest]:
            yield content_pb2.WriteContentRequest(action=content_pb2.STAT, ref=ref, total=total, expected=expected)

        offset = 0
        async for response in self._stub.write(stat(), metadata=self._metadata):
            offset = response.offset
        return offset

    async def _send(self, upload: _Upload) -> None:
        committed = None
        responses = self._stub.write(upload.requests(), metadata=self._metadata)
        try:
            async for response in responses:
                if response.action == content_pb2.COMMIT:
                    committed = response
        finally:
            upload.stopped = True
            await responses.aclose()
        if upload.error is not None:
            raise upload.error
        if committed is None:
            raise Unavailable(f"write of {upload.ref}: the daemon ended the stream before the blob was committed")
        if upload.expected and committed.digest != upload.expected:
            raise FailedPrecondition(f"unexpected commit digest {committed.digest}, expected {upload.expected}")
        upload.digest = committed.digest

    async def _labelled(self, digest: str, labels: Mapping[str, str] | None) -> str:
        if labels:
            await self.update_labels(digest, labels)
        return digest

    async def _drop(self, ref: str) -> None:
        try:
            await self.abort(ref)
        except NotFound:
            pass  # it had not begun, or the daemon dropped it itself
        except Error:
            pass  # the failure that led here is the one to tell; the ingest expires


class _Upload:
    """The requests of one Write stream, made as they are asked for. Each data message is answered, so memory is bounded
    by the transport's window."""

    def __init__(
        self, ref: str, pieces: Iterable[bytes], offset: int, total: int, expected: str, labels: Mapping[str, str]
    ) -> None:
        self.ref = ref
        self.expected = expected
        #: The digest of what was sent, for a blob of none expected.
        self.digest = expected
        #: What went wrong while pieces were read; gRPC would not tell it.
        self.error: Exception | None = None
        #: Set when the answers are over: a transport may ask for one request more, and the pieces are no longer its.
        self.stopped = False
        self._pieces = pieces
        self._offset = offset
        self._total = total
        self._labels = labels

    async def requests(self) -> AsyncIterator[WriteContentRequest]:
        try:
            for request in self._requests():
                if self.stopped:
                    return
                yield request
                if self.stopped:
                    return
        except Exception as error:
            self.error = error

    def _requests(self) -> Iterator[WriteContentRequest]:
        import hashlib

        hasher = None if self.expected else hashlib.sha256()
        sent = self._offset
        data = b""
        request = content_pb2.WriteContentRequest(ref=self.ref, total=self._total, expected=self.expected)
        for piece in _cut(self._pieces, self._offset):
            if hasher is not None:
                hasher.update(piece)
            if data:
                request.action = content_pb2.WRITE
                request.offset = sent
                request.data = data
                yield request
                sent += len(data)
                request = content_pb2.WriteContentRequest()
            data = piece
        if hasher is not None:
            self.digest = "sha256:" + hasher.hexdigest()
        request.action = content_pb2.COMMIT
        request.offset = sent
        request.data = data
        request.total = self._total or sent + len(data)
        request.expected = self.digest
        request.labels.update(self._labels)
        yield request


def _cut(pieces: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """Yield what follows the first `skip` bytes, in pieces that fit into a message."""
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        for start in range(skip, len(piece), PIECE):
            yield piece[start : start + PIECE]
        skip = 0

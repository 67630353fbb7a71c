"""Blobs: read, written, labelled and removed through a daemon's Content service."""

from __future__ import annotations

from itertools import chain
from os import urandom

from wherry.api.services.content.v1 import content_pb2
from wherry.api.wellknown_pb2 import FieldMask
from wherry.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from wherry.oci import digest as digests
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

    from wherry.api.services.content.v1.content_pb2 import Info as Info
    from wherry.api.services.content.v1.content_pb2 import Status as Status
    from wherry.api.services.content.v1.content_pb2 import WriteContentRequest
    from wherry.rpc.channel import Channel

#: Bytes of data in one message: what Go's client sends. ttrpc takes 4 MiB, gRPC 16.
PIECE = 1 << 20
#: Bytes of a manifest or a config. Registries allow 4 MiB; containerd reads 8.
MAX_DOCUMENT = 8 << 20


class Content:
    """A namespace's blobs. What is written joins the lease, if there is one."""

    def __init__(self, channel: Channel, namespace: str, lease: str = "") -> None:
        self._channel = channel
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
        # One more byte tells; asking for the size first would be another round trip.
        document = b"".join([piece async for piece in self.read(digest, size=MAX_DOCUMENT + 1)])
        if len(document) > MAX_DOCUMENT:
            raise InvalidArgument(f"document {digest}: more than {MAX_DOCUMENT} bytes are not read")
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
                if not _is_locked(error):
                    raise
                ref = _another(ref)
        upload = _Upload(self._channel, ref, pieces, offset, total, expected, labels or {})
        try:
            try:
                await self._send(upload)
            except Unavailable as error:
                if not _is_locked(error) or offset:
                    raise
                upload = upload.under(_another(ref))
                await self._send(upload)
        except AlreadyExists:
            return await self._labelled(expected or upload.digest, labels)
        except BaseException as error:
            if not (isinstance(error, Unavailable) and _is_locked(error)):
                await self._drop(upload.ref)
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
                upload.answered()
                if response.action == content_pb2.COMMIT:
                    committed = response
        finally:
            upload.stop()
            await responses.aclose()
            if upload.error is not None:
                raise upload.error from None  # whatever the daemon says of a stream without an end
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
    """The requests of one Write stream, each made when the one before it was answered.

    Over a channel of an event loop, that is: gRPC's Python loses the server's reason if a stream ends while a message
    is on its way. A blocking channel never suspends; there the transport asks for the next when it has room for it.
    """

    def __init__(
        self,
        channel: Channel,
        ref: str,
        pieces: Iterable[bytes],
        offset: int,
        total: int,
        expected: str,
        labels: Mapping[str, str],
    ) -> None:
        self._channel = channel
        self.ref = ref
        self.expected = expected
        #: The digest of what was sent, for a blob of none expected.
        self.digest = expected
        #: What went wrong while pieces were read; gRPC would not tell it.
        self.error: BaseException | None = None
        self._stopped = False
        self._answers = _semaphore(channel)
        self._pieces = _cut(pieces, offset)
        #: What was taken before the first answer, which may be that the ref is locked.
        self._taken: list[bytes] = []
        self._begun = False
        self._offset = offset
        self._total = total
        self._labels = labels

    def under(self, ref: str) -> _Upload:
        """Return an upload of the same bytes, under another ref, after the first request of this one was refused."""
        return _Upload(
            self._channel, ref, chain(self._taken, self._pieces), 0, self._total, self.expected, self._labels
        )

    def answered(self) -> None:
        """Note that a request was answered."""
        self._begun = True
        self._taken.clear()
        if self._answers is not None:
            self._answers.release()

    def stop(self) -> None:
        """Make no request any more: a transport may still ask for one, and the pieces are no longer its."""
        self._stopped = True
        if self._answers is not None:
            self._answers.release()

    async def requests(self) -> AsyncIterator[WriteContentRequest]:
        """Yield the requests; what reading the pieces raises, an interrupt included, is kept in `error`."""
        made = self._requests()
        while not self._stopped:
            try:
                request = next(made, None)
            except BaseException as error:
                self.error = error
                return
            if request is None:
                return
            yield request
            if self._answers is not None:
                await self._answers.acquire()

    def _requests(self) -> Iterator[WriteContentRequest]:
        hasher = None if self.expected else digests.hasher()
        sent = self._offset
        data = b""
        request = content_pb2.WriteContentRequest(ref=self.ref, total=self._total, expected=self.expected)
        for piece in self._pieces:
            if not self._begun:
                self._taken.append(piece)
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


def _is_locked(error: Unavailable) -> bool:
    return "locked" in error.message


def _another(ref: str) -> str:
    return f"{ref}-{urandom(6).hex()}"


def _semaphore(channel: Channel) -> asyncio.Semaphore | None:
    """Return what counts answers; None for a channel whose coroutines may not wait for them."""
    if not getattr(channel, "suspends", True):
        return None
    import asyncio

    return asyncio.Semaphore(0)


def _cut(pieces: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """Yield what follows the first `skip` bytes, in pieces that fit into a message."""
    for piece in pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        for start in range(skip, len(piece), PIECE):
            yield piece[start : start + PIECE]
        skip = 0

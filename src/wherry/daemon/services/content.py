"""containerd.services.content.v1.Content."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from wherry.api import typeurl
from wherry.api.services.content.v1 import content_pb2 as api
from wherry.api.wellknown_pb2 import Empty
from wherry.errors import AlreadyExists, DataLoss, InvalidArgument, OutOfRange
from wherry.rpc.service import Service
from wherry.store.content import ContentStore, ContentWriter, Info, Status
from wherry.store.ingest import in_thread

if TYPE_CHECKING:
    from wherry.daemon.collector import Collector
    from wherry.rpc.context import CallContext

#: Blobs in one message of List.
_PER_MESSAGE = 100
#: Bytes in one message of Read.
_PIECE = 1 << 20
#: Bytes that are read right away, most likely from the page cache; more are read in a thread.
_INLINE = 65536


class ContentService(Service):
    """Blobs, and the ingests that become blobs. Content has no events, as in containerd 1.6 and 1.7."""

    descriptor = api.DESCRIPTOR.services_by_name["Content"]

    def __init__(self, store: ContentStore, collector: Collector) -> None:
        self._store = store
        self._collector = collector

    async def info(self, request: Any, context: CallContext) -> api.InfoResponse:
        return api.InfoResponse(info=_to_message(self._store.info(context.namespace, request.digest)))

    async def update(self, request: Any, context: CallContext) -> api.UpdateResponse:
        info = request.info
        changed = await self._store.update(context.namespace, info.digest, dict(info.labels), request.update_mask.paths)
        return api.UpdateResponse(info=_to_message(changed))

    async def list(self, request: Any, context: CallContext) -> AsyncIterator[api.ListContentResponse]:
        waiting: list[api.Info] = []
        for page in self._store.pages(context.namespace, request.filters):
            waiting += map(_to_message, page)
            if len(waiting) >= _PER_MESSAGE:
                yield api.ListContentResponse(info=waiting[:_PER_MESSAGE])
                del waiting[:_PER_MESSAGE]
        if waiting:
            yield api.ListContentResponse(info=waiting)

    async def delete(self, request: Any, context: CallContext) -> Empty:
        await self._store.delete(context.namespace, request.digest, context.lease)
        self._collector.deleted()
        return Empty()

    async def read(self, request: Any, context: CallContext) -> AsyncIterator[api.ReadContentResponse]:
        fd, size = self._store.open(context.namespace, request.digest)
        try:
            start = max(request.offset, 0)
            if start > size:
                raise OutOfRange(f"read past object length {size} bytes")
            length = size - start
            if 0 < request.size < length:
                length = request.size
            sent = 0
            while sent < length:
                data = await _read(fd, start + sent, min(_PIECE, length - sent))
                if not data:
                    raise DataLoss(f"content {request.digest}: file ends {length - sent} bytes early")
                # Counted from the start of what was asked for, not from that of the blob: so clients expect it.
                yield api.ReadContentResponse(offset=sent, data=data)
                sent += len(data)
        finally:
            os.close(fd)

    async def status(self, request: Any, context: CallContext) -> api.StatusResponse:
        return api.StatusResponse(status=_status_message(self._store.status(context.namespace, request.ref)))

    async def list_statuses(self, request: Any, context: CallContext) -> api.ListStatusesResponse:
        found = self._store.statuses(context.namespace, request.filters)
        return api.ListStatusesResponse(statuses=[_status_message(status) for status in found])

    async def abort(self, request: Any, context: CallContext) -> Empty:
        await self._store.abort(context.namespace, request.ref)
        self._collector.deleted()
        return Empty()

    async def write(
        self, requests: AsyncIterator[Any], context: CallContext
    ) -> AsyncIterator[api.WriteContentResponse]:
        """One stream is one ingest: a response a request, and the last one once more at the end."""
        request = await anext(requests, None)
        if request is None or not request.ref:
            raise InvalidArgument("first message must have a reference")
        writer = await self._store.writer(
            context.namespace, request.ref, total=request.total, expected=request.expected, lease=context.lease
        )
        session = _WriteSession(self._store, writer, request)
        try:
            while True:
                response = await session.answer(request)
                yield response
                if request.action == api.COMMIT:
                    break
                request = await anext(requests, None)
                if request is None:
                    break
        finally:
            writer.close()
        yield session.response()


class _WriteSession:
    """What one stream of Write has said so far: as the first message had it, until a later one says otherwise."""

    def __init__(self, store: ContentStore, writer: ContentWriter, first: Any) -> None:
        self._store = store
        self._writer = writer
        self._total = first.total
        self._expected = first.expected
        #: As in containerd, the times and the total of the last STAT stay in the responses that follow.
        self._fields: dict[str, Any] = {}

    async def answer(self, request: Any) -> api.WriteContentResponse:
        writer = self._writer
        if request.expected:
            self._expected = request.expected
            if self._store.has(writer.namespace, request.expected):
                await writer.abort()
                raise AlreadyExists(f"blob with expected digest {request.expected} exists")
        if request.total > 0:
            self._total = request.total
        self._fields["action"] = request.action
        if request.action == api.STAT:
            self._fields["started_at"] = typeurl.timestamp(writer.started_at)
            self._fields["updated_at"] = typeurl.timestamp(writer.updated_at)
            self._fields["total"] = self._total
        elif request.action in (api.WRITE, api.COMMIT):
            await self._write(request)
        self._fields["offset"] = writer.offset
        self._fields["digest"] = writer.digest
        if request.action == api.COMMIT:
            await writer.commit(self._total, self._expected, dict(request.labels))
        return self.response()

    async def _write(self, request: Any) -> None:
        writer = self._writer
        if request.offset > 0 and request.offset != writer.offset:
            raise OutOfRange(f"write @{request.offset} must occur at current offset {writer.offset}")
        if request.offset == 0 and writer.offset > 0:
            await writer.truncate()
        if request.data:
            await writer.write(request.data)

    def response(self) -> api.WriteContentResponse:
        return api.WriteContentResponse(**self._fields)


async def _read(fd: int, offset: int, size: int) -> bytes:
    if size <= _INLINE:
        return os.pread(fd, size, offset)
    return await in_thread(lambda: os.pread(fd, size, offset))


def _to_message(info: Info) -> api.Info:
    return api.Info(
        digest=info.digest,
        size=info.size,
        created_at=typeurl.timestamp(info.created_at),
        updated_at=typeurl.timestamp(info.updated_at),
        labels=info.labels,
    )


def _status_message(status: Status) -> api.Status:
    return api.Status(
        started_at=typeurl.timestamp(status.started_at),
        updated_at=typeurl.timestamp(status.updated_at),
        ref=status.ref,
        offset=status.offset,
        total=status.total,
        expected=status.expected,
    )

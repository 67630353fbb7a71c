"""Blobs written to a content store from where they are fetched: each once, and from where an earlier try stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from wherry.api.services.content.v1 import content_pb2
from wherry.client.content import PIECE, Content
from wherry.errors import AlreadyExists, FailedPrecondition, NotFound, Unavailable
from wherry.oci.descriptor import Descriptor
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.transfer.locks import Locks
from wherry.transfer.progress import Progress, ref_of

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel

#: Yields a blob's bytes from an offset on.
Fetch = Callable[[int], AsyncIterator[bytes]]

#: Seconds between tries while another client writes the same ingest.
_PAUSE = 0.2

_SOURCE = "containerd.io/distribution.source."


def source_label(host: str) -> str:
    """Return the label that tells which repositories of a host have a blob, so that a push there can mount it.

    As containerd's, it knows no port.
    """
    name, _, port = host.rpartition(":")
    return _SOURCE + (name if port.isdecimal() and name else host)


class Ingester:
    """Writes blobs into a namespace's content, under a lease."""

    def __init__(self, channel: Channel, namespace: str, lease: str, locks: Locks, progress: Progress) -> None:
        self._stub = Stub(channel, content_pb2.DESCRIPTOR.services_by_name["Content"])
        self._metadata = metadata_for(namespace, lease)
        self._namespace = namespace
        self._content = Content(channel, namespace, lease)
        self._locks = locks
        self._progress = progress

    async def ingest(
        self,
        descriptor: Descriptor,
        fetch: Fetch,
        labels: Mapping[str, str],
        on_begin: Callable[[], None] = lambda: None,
    ) -> bool:
        """Write a blob unless it is there, with labels that are added to what it has; false if it was there.

        `on_begin` is called when the ingest is open, if it can be followed from its beginning.
        FailedPrecondition if what is fetched has another digest or size; it is not kept. Raises what `fetch` raises;
        then what came so far is kept for another try, as long as the lease is there.
        """
        async with self._locks.hold("content", self._namespace, descriptor.digest):
            written = await self._write(descriptor, fetch, labels, on_begin)
        if not written:
            self._progress.done("already exists", descriptor)
            await self._merge(descriptor.digest, labels)
        else:
            self._progress.done("complete", descriptor)
        return written

    async def _write(
        self, descriptor: Descriptor, fetch: Fetch, labels: Mapping[str, str], on_begin: Callable[[], None]
    ) -> bool:
        while True:
            upload = _Upload(descriptor, fetch, labels, self._progress, on_begin)
            try:
                await self._send(upload)
                return True
            except AlreadyExists:
                return False
            except Unavailable as error:
                if "locked" not in error.message or error is upload.error:
                    raise
                await asyncio.sleep(_PAUSE)
            except FailedPrecondition:
                if upload.error is not None:
                    raise
                # The bytes are not those of the digest: none of them is worth keeping.
                await self._abort(upload.ref)
                if not upload.resumed:
                    raise

    async def _send(self, upload: _Upload) -> None:
        responses = self._stub.write(upload.requests(), metadata=self._metadata)
        try:
            async for response in responses:
                upload.answered(response)
        finally:
            await responses.aclose()
            if upload.error is not None:
                raise upload.error
        if not upload.committed:
            raise Unavailable(f"write of {upload.ref}: the stream ended before the blob was committed")

    async def _abort(self, ref: str) -> None:
        try:
            await self._content.abort(ref)
        except NotFound:
            pass  # somebody else gave it up

    async def _merge(self, digest: str, labels: Mapping[str, str]) -> None:
        """Add labels to a blob's; a list of repositories gets another entry."""
        found = (await self._content.info(digest)).labels
        new = {}
        for key, value in labels.items():
            if key.startswith(_SOURCE) and found.get(key):
                value = ",".join(sorted({*found[key].split(","), *value.split(",")}))
            if found.get(key) != value:
                new[key] = value
        if new:
            await self._content.update_labels(digest, new)


class _Upload:
    """The requests of one Write stream, each made when the one before it was answered."""

    def __init__(
        self,
        descriptor: Descriptor,
        fetch: Fetch,
        labels: Mapping[str, str],
        progress: Progress,
        on_begin: Callable[[], None],
    ) -> None:
        self.ref = ref_of(descriptor)
        #: What fetching raised; a transport may tell it otherwise or not at all.
        self.error: BaseException | None = None
        self.committed = False
        #: Whether an earlier try had left bytes.
        self.resumed = False
        self._descriptor = descriptor
        self._fetch = fetch
        self._labels = labels
        self._progress = progress
        self._on_begin = on_begin
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    def answered(self, response: Any) -> None:
        """Take the answer to the request that came last."""
        self.committed = response.action == content_pb2.COMMIT
        self._answers.put_nowait(response)

    async def requests(self) -> AsyncIterator[Any]:
        """Yield the requests."""
        digest, size = self._descriptor.digest, self._descriptor.size
        yield content_pb2.WriteContentRequest(action=content_pb2.STAT, ref=self.ref, total=size, expected=digest)
        sent: int = (await self._answers.get()).offset
        self.resumed = sent > 0
        if not self.resumed:
            self._on_begin()  # what an earlier try left may turn out wrong: nobody is to build on it
        elif sent > size:
            # Of an ingest with the same name and no total: it starts again.
            self.resumed, sent = False, 0
        try:
            async for piece in self._pieces(sent):
                yield content_pb2.WriteContentRequest(action=content_pb2.WRITE, offset=sent, data=piece)
                await self._answers.get()
                sent += len(piece)
                self._progress.moved("downloading", self._descriptor, sent)
        except Exception as error:
            self.error = error
            return
        yield content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT, offset=sent, total=size, expected=digest, labels=self._labels
        )

    async def _pieces(self, offset: int) -> AsyncIterator[bytes]:
        if offset == self._descriptor.size:
            return
        pieces = self._fetch(offset)
        try:
            async for piece in pieces:
                for start in range(0, len(piece), PIECE):
                    yield piece[start : start + PIECE]
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()

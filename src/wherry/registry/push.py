"""Blobs and manifests stored in a registry: distribution specification, "Pushing"."""

from __future__ import annotations

import enum
import re
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from wherry.errors import DataLoss, Error, FailedPrecondition, NotFound, PermissionDenied, Unauthenticated, Unavailable
from wherry.oci.descriptor import Descriptor
from wherry.registry.failures import TooManyRequests, excerpt
from wherry.registry.hosts import Host
from wherry.registry.request import Body, Document, Request, joined, origin

if TYPE_CHECKING:
    from wherry.registry.repository import Repository
    from wherry.registry.transport import Transport

#: Yields a blob's bytes from an offset on.
Read = Callable[[int], AsyncIterator[bytes]]

#: Each that has not the blob costs an upload that is begun and cancelled.
_MAX_MOUNTS = 4
_ACTIONS = "pull,push"
_RANGE = re.compile(r"\s*(?:bytes\s*=?\s*)?0-([0-9]{1,19})\s*")


class Pushed(enum.Enum):
    """How a blob came to be in a registry."""

    EXISTED = "existed"
    MOUNTED = "mounted"
    PUSHED = "pushed"


class Upload:
    """One blob on its way up."""

    def __init__(
        self,
        repository: Repository,
        transport: Transport,
        host: Host,
        descriptor: Descriptor,
        read: Read,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._repository = repository
        self._transport = transport
        self._host = host
        self._descriptor = descriptor
        self._read = read
        self._on_progress = on_progress or (lambda _: None)
        self._about = f"{host.address}: push of {repository.name}@{descriptor.digest}"
        #: Where the next request of the upload goes.
        self._location = ""
        #: How many bytes the registry has.
        self._position = 0
        #: Bytes of one request; 0: all.
        self._chunk = transport.options.chunk_size

    async def run(self, mount_from: Sequence[str]) -> Pushed:
        """Upload the blob, or have it mounted from one of some repositories."""
        try:
            for name in mount_from[:_MAX_MOUNTS]:
                if await self._mount(name):
                    return Pushed.MOUNTED
            await self._upload()
        except Error:
            await self._cancel()
            raise
        return Pushed.PUSHED

    async def _upload(self) -> None:
        fruitless = furthest = 0
        whole = not self._chunk
        while True:
            try:
                if not self._location:
                    await self._begin()
                if whole:
                    await self._put(self._slice(0, self._descriptor.size), self._descriptor.size)
                else:
                    while self._position < self._descriptor.size:
                        await self._patch()
                    await self._put(b"", 0)
                return
            except (Unavailable, TooManyRequests, NotFound) as error:
                # An upload may be forgotten; a repository that is not there stays so.
                if isinstance(error, NotFound) and not self._location:
                    raise
                fruitless += 1
                if fruitless >= self._transport.options.tries:
                    raise
                await self._transport.pause(fruitless, error, getattr(error, "asked", None))
            # The answer alone may have been lost.
            if await self._repository.exists(self._descriptor):
                return
            whole = await self._resume() or not self._chunk
            whole = whole and not self._position
            if self._position > furthest:
                furthest, fruitless = self._position, 0

    async def _mount(self, name: str) -> bool:
        await self._cancel()
        request = self._request("POST", "blobs", "uploads", "")
        request.query = {"mount": self._descriptor.digest, "from": name}
        request.scopes = (*request.scopes, f"repository:{name}:pull")
        request.accepted = frozenset((201, 202))
        try:
            answer = await self._transport.exchange(request)
        except (Unauthenticated, PermissionDenied, NotFound):
            return False  # of that repository: whether one may push here is seen without it
        if answer.status == 201:
            return True
        # An upload has been begun instead: the last one is gone on with.
        self._follow(answer)
        return False

    async def _begin(self) -> None:
        request = self._request("POST", "blobs", "uploads", "")
        request.accepted = frozenset((202,))
        answer = await self._transport.exchange(request)
        self._follow(answer)
        self._position = 0

    async def _put(self, body: bytes | Body, length: int) -> None:
        """Send the last bytes, or all."""
        separator = "&" if urllib.parse.urlsplit(self._location).query else "?"
        url = f"{self._location}{separator}digest={urllib.parse.quote(self._descriptor.digest)}"
        request = self._request("PUT", url=url)
        request.headers["Content-Type"] = "application/octet-stream"
        request.body, request.length = body, length
        request.accepted = frozenset((201, 204))
        request.retried = False
        request.answer_timeout = self._transport.options.commit_timeout
        answer = await self._transport.exchange(request)
        check_digest(answer.headers, self._descriptor.digest, self._about)
        self._location = ""

    async def _patch(self) -> None:
        """Send the next chunk."""
        start = self._position
        length = min(self._chunk or self._descriptor.size, self._descriptor.size - start)
        request = self._request("PATCH", url=self._location)
        request.headers["Content-Type"] = "application/octet-stream"
        request.headers["Content-Range"] = f"{start}-{start + length - 1}"
        request.body, request.length = self._slice(start, length), length
        request.accepted = frozenset((201, 202, 204, 416))
        request.retried = False
        request.answer_timeout = self._transport.options.commit_timeout
        answer = await self._transport.exchange(request)
        if answer.status == 416:
            raise Unavailable(f"{self._about}: bytes from {start} on are not what the registry waits for")
        self._follow(answer)
        stored = _stored(answer.headers)
        self._position = start + length if stored is None else stored
        if not start < self._position <= start + length:
            raise Unavailable(f"{self._about}: the registry has {self._position} bytes after {start + length}")

    async def _resume(self) -> bool:
        """Ask how much has arrived. Tells whether it is best to begin anew."""
        self._position = 0
        if self._location:
            request = self._request("GET", url=self._location)
            request.accepted = frozenset((200, 204))
            try:
                answer = await self._transport.exchange(request)
                stored = _stored(answer.headers)
                # "0-0" is said of no byte and of one.
                if stored is not None and 1 < stored <= self._descriptor.size:
                    self._follow(answer, optional=True)
                    self._position = stored
                    return False
            except Error:
                pass  # it is forgotten, or not told
            await self._cancel()
        return True

    async def _cancel(self) -> None:
        """End an upload that is not gone on with; the registry would forget it at some time of its own."""
        if not self._location:
            return
        request = self._request("DELETE", url=self._location)
        request.accepted = frozenset((200, 202, 204, 404, 405))
        request.retried, request.connect_tries = False, 1
        request.answer_timeout = 10.0
        self._location = ""
        try:
            await self._transport.exchange(request)
        except Error:
            pass  # nothing depends on it

    def _follow(self, answer: Document, *, optional: bool = False) -> None:
        location = answer.headers.get("Location", "")
        if not location:
            if optional:
                return
            raise FailedPrecondition(f"{self._about}: the registry does not say where to upload to")
        target = joined(answer.url, location, self._about)
        parts, here = urllib.parse.urlsplit(target), urllib.parse.urlsplit(answer.url)
        if (here.scheme, parts.scheme) == ("https", "http") and parts.hostname == here.hostname:
            # A registry that does not know that TLS is spoken before it.
            target = urllib.parse.urlunsplit(parts._replace(scheme="https", netloc=here.netloc))
        elif (here.scheme, parts.scheme) == ("https", "http"):
            raise FailedPrecondition(f"{self._about}: no upload to {excerpt(origin(target))}")
        self._location = target
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if self._chunk and least.isascii() and least.isdigit():
            self._chunk = max(self._chunk, int(least[:12]))

    def _slice(self, offset: int, length: int) -> Body:
        async def pieces() -> AsyncGenerator[bytes, None]:
            sent = 0
            self._on_progress(offset)
            async with aclosing(_generated(self._read(offset))) as source:
                async for piece in source:
                    part = piece[: length - sent]
                    sent += len(part)
                    if part:
                        yield part
                    self._on_progress(offset + sent)
                    if sent == length:
                        return
            if sent < length:
                raise DataLoss(f"{self._about}: there are only {offset + sent} bytes to push, not {offset + length}")

        return pieces

    def _request(self, method: str, *path: str, url: str = "") -> Request:
        return self._repository.request(self._host, method, *path, about=self._about, actions=_ACTIONS, url=url)


async def manifest(
    repository: Repository,
    transport: Transport,
    host: Host,
    descriptor: Descriptor,
    document: bytes,
    tag: str,
    about: str,
) -> Mapping[str, str]:
    """Store a manifest; returns the headers of the answer."""
    request = repository.request(host, "PUT", "manifests", tag or descriptor.digest, about=about, actions=_ACTIONS)
    request.headers["Content-Type"] = descriptor.media_type
    request.body = document
    request.accepted = frozenset((200, 201))
    request.answer_timeout = transport.options.commit_timeout
    answer = await transport.exchange(request)
    check_digest(answer.headers, descriptor.digest, about)
    return answer.headers


def check_digest(headers: Mapping[str, str], digest: str, about: str) -> None:
    """FailedPrecondition if a registry says that it has stored something else."""
    found = headers.get("Docker-Content-Digest", digest)
    if found != digest and found.partition(":")[0] == digest.partition(":")[0]:
        raise FailedPrecondition(f"{about}: the registry stored {excerpt(found)}")


async def _generated(source: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in source:
            yield piece
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


def _stored(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes a registry says it has."""
    match = _RANGE.fullmatch(headers.get("Range", ""))
    return int(match[1]) + 1 if match else None

"""A repository of a registry: what is in it, found through the registry's hosts in their order."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from wherry.errors import Error, FailedPrecondition, InvalidArgument, ResourceExhausted
from wherry.oci import digest as digests
from wherry.oci import manifest
from wherry.oci.descriptor import Descriptor
from wherry.registry import push, referrers, tags
from wherry.registry.failures import excerpt
from wherry.registry.fetch import Source, foreign_sources, pieces
from wherry.registry.hosts import PULL, PUSH, REFERRERS, RESOLVE, Host
from wherry.registry.push import Pushed, Read
from wherry.registry.reference import Reference, is_name, is_tag
from wherry.registry.request import Document, Request

if TYPE_CHECKING:
    from wherry.registry.transport import Transport

#: Of what is fetched into memory.
MAX_DOCUMENT = 8 << 20
#: More bytes than this are hashed in a thread: some 0.2 ms.
_HASHED_HERE = 64 << 10

_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"
_ACCEPT = ", ".join((manifest.OCI_INDEX, manifest.OCI_MANIFEST, manifest.DOCKER_INDEX, manifest.DOCKER_MANIFEST, "*/*"))
#: What servers call a manifest of which they do not know better.
_UNSPECIFIC = frozenset(("", "application/json", "application/octet-stream", "text/plain"))

_Result = TypeVar("_Result")


class Repository:
    """One repository, and the tag or digest in it that a reference names. Made by Client.repository."""

    def __init__(
        self, reference: Reference, transport: Transport, find: Callable[[str], Awaitable[list[Host]]]
    ) -> None:
        self._reference = reference
        self._transport = transport
        self._find = find
        #: Held while the index of referrers is read and written again.
        self.referrers_lock = asyncio.Lock()

    @property
    def reference(self) -> str:
        """The reference, as it was given."""
        return str(self._reference)

    @property
    def host(self) -> str:
        """The registry as references name it: "docker.io"."""
        return self._reference.host

    @property
    def name(self) -> str:
        """The repository's name in the registry: "library/alpine"."""
        return self._reference.name

    @property
    def tag(self) -> str:
        return self._reference.tag

    @property
    def digest(self) -> str:
        return self._reference.digest

    async def resolve(self) -> Descriptor:
        """Return the descriptor of the manifest or index that the reference names. A digest counts above a tag.

        InvalidArgument without either, or for Docker's schema 1; NotFound, Unauthenticated, PermissionDenied,
        Unavailable as the registry has it; FailedPrecondition for answers that make no sense.
        """
        if not self._reference.object:
            raise InvalidArgument(f"{self.reference}: neither a tag nor a digest")
        # Whoever has what a digest names may be believed.
        capability = PULL if self.digest else RESOLVE
        return await self._first(capability, self.reference, self._resolve)

    async def fetch_document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest, an index or a config, whose size and digest are right.

        ResourceExhausted above MAX_DOCUMENT bytes; FailedPrecondition for other bytes than the descriptor says.
        """
        about = self._about(descriptor)
        if descriptor.size > MAX_DOCUMENT:
            raise ResourceExhausted(f"{about}: {descriptor.size} bytes, of which {MAX_DOCUMENT} are taken at most")

        async def fetched(host: Host, last: bool) -> bytes:
            source = self._source(host, descriptor, last)
            async with aclosing(pieces(self._transport, source, 0)) as received:
                document = b"".join([piece async for piece in received])
            await check(document, descriptor.digest, f"{about}: {host.address}")
            return document

        return await self._first(PULL, about, fetched)

    async def fetch(self, descriptor: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield a blob from an offset on, in pieces of up to some 512 KiB; close the generator to end early.

        Goes on where a connection broke off, and with the next host where one fails. Yields no byte above the
        descriptor's size; the digest is the caller's to check. FailedPrecondition for a blob of another size, and what
        the last host said if none has it.
        """
        async with aclosing(self._fetch(descriptor, offset)) as received:
            async for piece in received:
                yield piece

    async def _fetch(self, descriptor: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
        hosts = await self._hosts(PULL, self._about(descriptor))
        sources = [self._source(host, descriptor, host is hosts[-1]) for host in hosts]
        sources += foreign_sources(descriptor, self._about(descriptor), self._transport.options)
        failures: list[Error] = []
        for source in sources:
            try:
                async with aclosing(pieces(self._transport, source, offset)) as received:
                    async for piece in received:
                        offset += len(piece)
                        yield piece
                return
            except Error as error:
                failures.append(error)
        raise _combined(failures, len(hosts))

    async def exists(self, descriptor: Descriptor) -> bool:
        """Tell whether the host to which pushes go has a manifest or blob."""
        about = self._about(descriptor)
        request = self.request(await self._push_host(about), "HEAD", _kind(descriptor), descriptor.digest, about=about)
        request.headers["Accept"] = _accept(descriptor)
        request.accepted = frozenset((200, 404))
        return (await self._transport.exchange(request)).status == 200

    async def push_blob(
        self,
        descriptor: Descriptor,
        read: Read,
        *,
        mount_from: Sequence[str] = (),
        on_progress: Callable[[int], None] | None = None,
    ) -> Pushed:
        """Upload a blob, unless the registry has it, here or in one of the repositories of `mount_from`.

        `read` yields its bytes from an offset on, and may be called again; `on_progress` is told how many have been
        handed over so far, which after a break may be fewer than before.
        """
        host = await self._push_host(self._about(descriptor))
        if await self.exists(descriptor):
            return Pushed.EXISTED
        names = [name for name in mount_from if is_name(name) and name != self.name]
        upload = push.Upload(self, self._transport, host, descriptor, read, on_progress)
        return await upload.run(names)

    async def push_manifest(self, descriptor: Descriptor, document: bytes, tag: str = "") -> None:
        """Store a manifest or index under its digest, and a tag if one is given.

        What it refers to must be there. Of a manifest with a subject, the referrers' index is kept where the registry
        does not do so itself (distribution specification, "Pushing Manifests with Subject").
        """
        about = f"{self._reference.repository}{tag and ':' + tag}@{descriptor.digest}"
        await check(document, descriptor.digest, about)
        if tag and not is_tag(tag):
            raise InvalidArgument(f'{about}: "{tag}" is no tag')
        host = await self._push_host(about)
        headers = await push.manifest(self, self._transport, host, descriptor, document, tag, about)
        if "OCI-Subject" not in headers:
            await referrers.add(self, self._transport, host, descriptor, document)

    async def delete_manifest(self, digest: str) -> None:
        """Delete a manifest, and with it its tags. NotFound; Unimplemented where the registry deletes nothing."""
        about = f"{self._reference.repository}@{digest}"
        digests.validate(digest)
        host = await self._push_host(about)
        request = self.request(host, "DELETE", "manifests", digest, about=about, actions="delete,pull,push")
        request.accepted = frozenset((200, 202))
        await self._transport.exchange(request)

    def tags(self) -> AsyncGenerator[str, None]:
        """Yield the tags of the repository as the registry gives them, page by page."""
        return tags.listed(self, self._transport)

    async def referrers(self, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """Return the manifests whose subject has a digest, of one type or of all."""
        digests.validate(digest)
        about = f"{self._reference.repository}@{digest}: referrers"

        async def listed(host: Host, last: bool) -> list[Descriptor]:
            return await referrers.listed(self, self._transport, host, digest, artifact_type)

        return await self._first(REFERRERS, about, listed)

    def request(
        self, host: Host, method: str, *path: str, about: str = "", actions: str = "pull", url: str = ""
    ) -> Request:
        """Return a request below the repository's name, or of a URL that the registry gave for it."""
        return Request(
            about=about or self.reference,
            method=method,
            host=host,
            path=(self.name, *path),
            url=url,
            reference=self.reference,
            scopes=(f"repository:{self.name}:{actions}",),
        )

    async def hosts(self, capability: str) -> list[Host]:
        """Return the hosts that are asked for something, in order; the last is the registry's own unless it is told
        otherwise. FailedPrecondition if there is none."""
        return await self._hosts(capability, self.reference)

    async def get_manifest(self, host: Host, name: str, *, last: bool = True) -> tuple[Descriptor, bytes]:
        """Return what a host has for a tag or digest, checked as far as it can be."""
        about = self.reference if name == self._reference.object else f"{self._reference.repository}@{name}"
        request = self._manifest_request(host, "GET", name, last)
        answer = await self._transport.exchange(request, MAX_DOCUMENT)
        about = f"{about}: {host.address}"
        media_type = _media_type(answer, about)
        stated = _stated_digest(answer, about)
        expected = name if ":" in name else stated
        if expected:
            await check(answer.body, expected, about)
        found = manifest.parse_json(answer.body, about).get("mediaType") or ""
        if not isinstance(found, str) or (media_type and found and found != media_type):
            raise FailedPrecondition(
                f"{about}: sent as {excerpt(media_type)}, but its mediaType is {excerpt(str(found))}"
            )
        media_type = media_type or found
        if not media_type.isascii() or not media_type.isprintable() or not media_type:
            raise FailedPrecondition(f"{about}: neither its Content-Type nor the document says what it is")
        digest = expected or await asyncio.to_thread(digests.of, answer.body)
        return Descriptor(media_type, digest, len(answer.body)), answer.body

    async def _resolve(self, host: Host, last: bool) -> Descriptor:
        request = self._manifest_request(host, "HEAD", self._reference.object, last)
        # Answers to HEAD have no words: where it is not a plain "no", GET says what is the matter.
        request.accepted = frozenset((200, 400, 405, 406, 410, 415, 422, 500, 501))
        answer = await self._transport.exchange(request)
        about = f"{self.reference}: {host.address}"
        if answer.status == 200:
            media_type = _media_type(answer, about)
            digest = _stated_digest(answer, about)
            length = answer.headers.get("Content-Length", "")
            if self.digest and digest and digest.partition(":")[0] == self.digest.partition(":")[0]:
                _expect(self.digest, digest, about)
            digest = self.digest or digest
            if media_type and digest and length.isascii() and length.isdigit() and int(length[:20]):
                size = int(length[:20])
                if size > MAX_DOCUMENT:
                    raise ResourceExhausted(f"{about}: {size} bytes, of which {MAX_DOCUMENT} are taken at most")
                return Descriptor(media_type, digest, size)
        descriptor, document = await self.get_manifest(host, self._reference.object, last=last)
        manifest.parse(descriptor, document, about)
        return descriptor

    def _manifest_request(self, host: Host, method: str, name: str, last: bool) -> Request:
        request = self.request(host, method, "manifests", name)
        request.headers["Accept"] = _ACCEPT
        request.verified = ":" in name
        if not last:
            request.connect_tries = 1
        return request

    def _source(self, host: Host, descriptor: Descriptor, last: bool) -> Source:
        request = self.request(host, "GET", _kind(descriptor), descriptor.digest, about=self._about(descriptor))
        request.headers["Accept"] = _accept(descriptor)
        request.verified = True
        if not last:
            request.connect_tries = 1
        return Source(request, descriptor.size)

    def _about(self, descriptor: Descriptor) -> str:
        return f"{self._reference.repository}@{descriptor.digest}"

    async def _hosts(self, capability: str, about: str) -> list[Host]:
        hosts = [host for host in await self._find(self.host) if capability in host.capabilities]
        if not hosts:
            raise FailedPrecondition(f'{about}: no host of {self.host} has the capability "{capability}"')
        return hosts

    async def _push_host(self, about: str) -> Host:
        # As in containerd: the first that may, which is the registry's own unless a mirror is said to take pushes.
        return (await self._hosts(PUSH, about))[0]

    async def _first(self, capability: str, about: str, ask: Callable[[Host, bool], Awaitable[_Result]]) -> _Result:
        """Return what the first host says that says anything; raises what the last said."""
        hosts = await self._hosts(capability, about)
        failures: list[Error] = []
        for host in hosts:
            try:
                return await ask(host, host is hosts[-1])
            except Error as error:
                failures.append(error)
        raise _combined(failures, len(hosts))


async def check(document: bytes, digest: str, about: str) -> None:
    """FailedPrecondition unless a document has a digest."""
    algorithm = digest.partition(":")[0]

    def hashed() -> str:
        return f"{algorithm}:{hashlib.new(algorithm, document).hexdigest()}"

    digests.validate(digest)
    _expect(digest, hashed() if len(document) <= _HASHED_HERE else await asyncio.to_thread(hashed), about)


def _expect(digest: str, found: str, about: str) -> None:
    if found != digest:
        raise FailedPrecondition(f"{about}: unexpected digest {found}, expected {digest}")


def _combined(failures: list[Error], hosts: int) -> Error:
    """Return the error of the registry's own host, with what others said before it."""
    # After the hosts come addresses that others wrote into a manifest.
    error = failures[min(hosts, len(failures)) - 1]
    others = [each for each in failures if each is not error]
    if not others:
        return error
    words = "; ".join(each.message.removesuffix(f": {each.kind}") for each in others[:3])
    return type(error)(f"{error.message.removesuffix(f': {error.kind}')} (before that: {words})")


def _kind(descriptor: Descriptor) -> str:
    known = manifest.INDEXES | manifest.MANIFESTS
    return "manifests" if descriptor.media_type in known or descriptor.media_type.startswith(_SCHEMA_1) else "blobs"


def _accept(descriptor: Descriptor) -> str:
    return f"{descriptor.media_type}, */*" if descriptor.media_type else "*/*"


def _media_type(answer: Document, about: str) -> str:
    """Return the media type of a manifest's answer, "" if it says nothing of use."""
    text = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    if text.startswith(_SCHEMA_1):
        raise InvalidArgument(f"{about}: Docker's image format of schema 1, which is not supported: convert the image")
    if text in _UNSPECIFIC:
        return ""
    if not text.endswith("+json") or not (text.isascii() and text.isprintable()):
        raise FailedPrecondition(
            f"{about} answers {excerpt(text)}, which is no manifest: is this the address of a registry?"
        )
    return text


def _stated_digest(answer: Document, about: str) -> str:
    digest = answer.headers.get("Docker-Content-Digest", "")
    if digest:
        try:
            digests.validate(digest)
        except InvalidArgument:
            shown = excerpt(digest)
            raise FailedPrecondition(f'{about}: its Docker-Content-Digest "{shown}" is no digest') from None
    return digest

"""One blob read from one server: gone on with where a connection broke off (RFC 9110, 14: Range requests)."""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wherry.errors import FailedPrecondition, OutOfRange
from wherry.oci.descriptor import Descriptor
from wherry.registry.failures import Interrupted, excerpt
from wherry.registry.hosts import Host, Tls
from wherry.registry.options import Options
from wherry.registry.request import Request, joined

if TYPE_CHECKING:
    from wherry.registry.transport import Answer, Transport

#: Bytes that are waited for before they are handed on, for so many seconds at most.
_PIECE = 256 << 10
_PIECE_TIME = 0.1
#: A connection that brought so many bytes has made progress.
_PROGRESS = 64 << 10
#: And one that brings fewer in the stall timeout is none.
_LIVELY = 1 << 10
#: Seconds for a server that has said all to say that it was all.
_END_TIME = 5.0
_MAX_URLS = 8
_FOREIGN = (
    "application/vnd.docker.image.rootfs.foreign.",
    "application/vnd.oci.image.layer.nondistributable.",
)
_CONTENT_RANGE = re.compile(r"\s*bytes\s+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\s*")


@dataclass(slots=True)
class Source:
    """A server's blob."""

    request: Request
    size: int


def foreign_sources(descriptor: Descriptor, about: str, options: Options) -> list[Source]:
    """Return the addresses that a manifest names for a layer that registries may not have.

    Anybody may have written them: they see neither credentials nor headers (CVE-2020-15157), and no certificate.
    """
    if not descriptor.media_type.startswith(_FOREIGN):
        return []
    sources = []
    for url in descriptor.urls[:_MAX_URLS]:
        try:
            parts = urllib.parse.urlsplit(joined(url, "", about))
        except FailedPrecondition:
            continue
        if "@" not in parts.netloc:
            host = Host(
                parts.scheme,
                parts.netloc,
                tls=Tls(options.skip_verify, tuple(options.ca)),
                dial_timeout=options.connect_timeout,
            )
            whole = urllib.parse.urlunsplit(parts._replace(fragment=""))
            request = Request(about=about, method="GET", host=host, url=whole, verified=True)
            sources.append(Source(request, descriptor.size))
    return sources


async def pieces(transport: Transport, source: Source, offset: int) -> AsyncGenerator[bytes, None]:
    """Yield a blob from an offset on, never more than its size.

    OutOfRange for an offset above the size; FailedPrecondition for a blob of another size; what the server says;
    Unavailable if it breaks off again and again without having brought anything.
    """
    if offset > source.size:
        raise OutOfRange(f"{source.request.about}: there are {source.size} bytes, none at {offset}")
    fruitless = 0
    while offset < source.size:
        start, opened = offset, False
        try:
            async with transport.stream(_request(source, offset)) as answer:
                opened = True
                skipped = _check(source, answer, offset)
                body = _body(answer, source, skipped, offset, transport.options.stall_timeout)
                async with aclosing(body):
                    async for piece in body:
                        offset += len(piece)
                        yield piece
            return
        except Interrupted as error:
            fruitless = 1 if offset - start >= _PROGRESS else fruitless + 1
            # What did not even begin has been tried again already.
            if not opened or fruitless >= transport.options.tries:
                raise
            await transport.pause(fruitless, error)


def _request(source: Source, offset: int) -> Request:
    request = replace(source.request, accepted=frozenset((200, 206)))
    if offset:
        request.headers = {**request.headers, "Range": f"bytes={offset}-"}
        request.accepted = frozenset((200, 206, 416))
    return request


def _check(source: Source, answer: Answer, offset: int) -> int:
    """Return how many bytes of an answer come before those that are wanted."""
    headers = answer.response.headers
    about = f"{source.request.about}: {urllib.parse.urlsplit(answer.url).netloc}"
    encoding = headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", ""):
        raise FailedPrecondition(f"{about} answers encoded as {excerpt(encoding)}, unasked")
    if answer.status == 416:
        raise FailedPrecondition(f"{about} has no byte {offset}, though there should be {source.size}")
    begin = 0
    if answer.status == 206:
        content_range = headers.get("Content-Range", "")
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match is None or int(match[1]) != offset or match[3] not in ("*", str(source.size)):
            raise FailedPrecondition(
                f'{about}: bytes from {offset} of {source.size} were asked for, not "{excerpt(content_range)}"'
            )
        begin = offset
    length = answer.response.content_length
    if length is not None and length != source.size - begin:
        raise FailedPrecondition(f"{about} would send {length} bytes, but it should be {source.size - begin}")
    return offset - begin


async def _body(answer: Answer, source: Source, skip: int, offset: int, stall: float) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of an answer but the first ones; those that came before it broke off as well."""
    about = f"{source.request.about}: {urllib.parse.urlsplit(answer.url).netloc}"
    content = answer.response.content
    clock = asyncio.get_running_loop().time
    wanted = source.size - offset
    gathered: list[bytes] = []
    held = lively = 0
    began = clock()
    deadline = began + stall
    while wanted:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await content.readany()
        except Exception as error:
            if gathered:
                yield b"".join(gathered)
            raise answer.failure(about, error) from None
        now = clock()
        lively += len(chunk)
        if lively >= _LIVELY:
            deadline, lively = now + stall, 0
        if not chunk:
            break
        if skip:
            skipped = min(skip, len(chunk))
            skip -= skipped
            chunk = chunk[skipped:]
        if len(chunk) > wanted:
            raise FailedPrecondition(f"{about} sends more than the {source.size} bytes that there should be")
        wanted -= len(chunk)
        gathered.append(chunk)
        held += len(chunk)
        if held >= _PIECE or (held and now - began >= _PIECE_TIME):
            yield b"".join(gathered)
            gathered, held = [], 0
            # However long that took, it was not the server's time.
            began = clock()
            deadline += began - now
    if gathered and held:
        yield b"".join(gathered)
    if wanted:
        raise Interrupted(f"{about} ended after {source.size - wanted} of {source.size} bytes")
    await _check_end(answer, source, about)


async def _check_end(answer: Answer, source: Source, about: str) -> None:
    if answer.response.content_length is not None:
        return
    try:
        async with asyncio.timeout(_END_TIME):
            more = await answer.response.content.readany()
    except Exception:
        return  # it has sent all that was wanted
    if more:
        raise FailedPrecondition(f"{about} sends more than the {source.size} bytes that there should be")

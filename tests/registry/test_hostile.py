"""Registries that are slow, broken or malicious: a clear error or the right bytes, in bounded time and memory."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import formatdate

import pytest

from tests.registry.conftest import Connect
from tests.registry.hostile import (
    INDEX,
    MANIFEST,
    Asked,
    Behaviour,
    Connection,
    Hostile,
    answer,
    blob,
    collected,
    cut,
    digest,
    document,
    endless,
    error,
    hang_up,
    raw,
    redirect,
    silent,
    trickle,
)
from wherry.errors import (
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from wherry.oci.descriptor import Descriptor
from wherry.registry.client import Repository

DATA = bytes(range(256)) * 4096  # 1 MiB
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", digest(DATA), len(DATA))
BLOB = f"/v2/a/blobs/{LAYER.digest}"
TAG = "/v2/a/manifests/1"
DOCUMENT = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [],
    }
).encode()


@pytest.fixture
async def repository(hostile: Hostile, connect: Connect) -> Repository:
    client = await connect()
    found = client.repository(f"{hostile.host}/a:1")
    assert isinstance(found, Repository)
    return found


def both(server: Hostile, *behaviours: Behaviour) -> None:
    for method in ("HEAD", "GET"):
        server.on(method, TAG, *behaviours)


# Blobs


async def test_a_blob_comes_whole(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, blob(DATA))
    assert await collected(repository.fetch(LAYER)) == DATA
    assert await collected(repository.fetch(LAYER, 1000)) == DATA[1000:]
    assert await collected(repository.fetch(LAYER, len(DATA))) == b""
    assert hostile.asked[-1].headers["range"] == "bytes=1000-"


async def test_pieces_are_large_but_not_too_large(hostile: Hostile, repository: Repository) -> None:
    data = DATA * 16
    large = Descriptor("x", digest(data), len(data))
    hostile.on("GET", f"/v2/a/blobs/{large.digest}", blob(data))
    sizes = [len(piece) async for piece in repository.fetch(large)]
    assert sum(sizes) == len(data)
    assert max(sizes) <= 2 << 20
    assert len(sizes) <= 100


async def test_an_offset_beyond_the_end(repository: Repository) -> None:
    with pytest.raises(OutOfRange):
        await collected(repository.fetch(LAYER, len(DATA) + 1))


async def test_a_broken_download_goes_on_where_it_was(hostile: Hostile, repository: Repository) -> None:
    # More often than there are tries: each brings something.
    hostile.on("GET", BLOB, *[cut(DATA, 100_000)] * 10, blob(DATA))
    assert await collected(repository.fetch(LAYER)) == DATA
    assert hostile.asked[1].headers["range"] == "bytes=100000-"
    assert hostile.count("GET", BLOB) == 11


async def test_a_server_that_knows_no_ranges_is_read_again(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, cut(DATA, 500_000, ranges=False), blob(DATA, ranges=False))
    assert await collected(repository.fetch(LAYER)) == DATA


async def test_a_download_that_never_gets_anywhere_ends(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, cut(DATA, 10))
    with pytest.raises(Unavailable, match=hostile.host):
        await collected(repository.fetch(LAYER))
    assert hostile.count("GET", BLOB) == 4


async def test_the_wrong_part_is_no_part(hostile: Hostile, repository: Repository) -> None:
    wrong = answer(206, DATA[:5], {"Content-Range": f"bytes 7-11/{len(DATA)}"})
    hostile.on("GET", BLOB, wrong)
    with pytest.raises(FailedPrecondition, match="bytes from 5 of"):
        await collected(repository.fetch(LAYER, 5))
    hostile.on("GET", BLOB, answer(206, DATA[5:]))
    with pytest.raises(FailedPrecondition, match="bytes from 5 of"):
        await collected(repository.fetch(LAYER, 5))
    hostile.on("GET", BLOB, answer(416))
    with pytest.raises(FailedPrecondition, match=f"no byte 5, though there should be {len(DATA)}"):
        await collected(repository.fetch(LAYER, 5))


@pytest.mark.parametrize("size", [0, 10, len(DATA) - 1, len(DATA) + 1, 4 << 30])
async def test_a_blob_of_another_length(hostile: Hostile, repository: Repository, size: int) -> None:
    hostile.on("GET", BLOB, answer(200, b"", {"Content-Length": str(size)}))
    with pytest.raises(FailedPrecondition, match=f"would send {size} bytes, but it should be {len(DATA)}"):
        await collected(repository.fetch(LAYER))


async def test_an_endless_blob(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, endless())
    taken = 0
    with pytest.raises(FailedPrecondition, match=f"more than the {len(DATA)} bytes"):
        async for piece in repository.fetch(LAYER):
            taken += len(piece)
    assert taken <= len(DATA)


async def test_a_blob_that_says_no_length_is_still_short(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nshort"))
    with pytest.raises(Unavailable, match=f"ended after 5 of {len(DATA)} bytes"):
        await collected(repository.fetch(LAYER))


async def test_a_stalled_download_is_tried_again(hostile: Hostile, repository: Repository) -> None:
    async def stall(asked: Asked, connection: Connection) -> None:
        await connection.head(200, {"Content-Length": str(len(DATA))})
        await connection.send(DATA[:300_000])
        await connection.reader.read()

    hostile.on("GET", BLOB, stall, blob(DATA))
    assert await collected(repository.fetch(LAYER)) == DATA
    assert hostile.asked[1].headers["range"] == "bytes=300000-"


async def test_a_trickle_is_no_download(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.3, tries=2)
    hostile.on("GET", BLOB, trickle(DATA, 0.05))
    with pytest.raises(Unavailable, match="said nothing for too long"):
        await collected(client.repository(f"{hostile.host}/a").fetch(LAYER))


async def test_a_slow_reader_is_not_the_servers_fault(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.3)
    data = DATA * 8
    large = Descriptor("x", digest(data), len(data))
    hostile.on("GET", f"/v2/a/blobs/{large.digest}", blob(data))
    size = 0
    async for piece in client.repository(f"{hostile.host}/a").fetch(large):
        if not size:
            await asyncio.sleep(1)
        size += len(piece)
    assert size == len(data)
    assert len(hostile.asked) == 1


async def test_an_encoding_that_was_not_asked_for(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, answer(200, DATA, {"Content-Encoding": "gzip"}))
    with pytest.raises(FailedPrecondition, match="encoded as gzip"):
        await collected(repository.fetch(LAYER))
    assert hostile.asked[0].headers["accept-encoding"] == "identity"


async def test_a_fetch_that_is_given_up_ends_its_connection(hostile: Hostile, connect: Connect) -> None:
    client = await connect()
    data = DATA * 64
    large = Descriptor("x", digest(data), len(data))
    hostile.on("GET", f"/v2/a/blobs/{large.digest}", blob(data))
    pieces = client.repository(f"{hostile.host}/a").fetch(large)
    await anext(pieces)
    await pieces.aclose()
    await asyncio.sleep(0.05)
    assert hostile.sent < len(data)


# Manifests


async def test_a_manifest_of_other_bytes(hostile: Hostile, repository: Repository) -> None:
    descriptor = Descriptor(MANIFEST, digest(DOCUMENT), len(DOCUMENT))
    path = f"/v2/a/manifests/{descriptor.digest}"
    hostile.on("GET", path, answer(200, DOCUMENT.replace(b"2", b"3"), type=MANIFEST))
    with pytest.raises(FailedPrecondition, match=f"unexpected digest sha256:[0-9a-f]+, expected {descriptor.digest}"):
        await repository.fetch_document(descriptor)
    hostile.on("GET", path, answer(200, DOCUMENT + b" ", type=MANIFEST))
    with pytest.raises(FailedPrecondition, match=f"would send {len(DOCUMENT) + 1} bytes"):
        await repository.fetch_document(descriptor)
    hostile.on("GET", path, hang_up(), cut(DOCUMENT, 20), document(DOCUMENT))
    assert await repository.fetch_document(descriptor) == DOCUMENT


async def test_a_manifest_that_claims_4_gib(hostile: Hostile, repository: Repository) -> None:
    claim = {"Content-Length": str(4 << 30), "Docker-Content-Digest": digest(DOCUMENT)}
    both(hostile, answer(200, b"", claim, type=MANIFEST))
    with pytest.raises(ResourceExhausted, match="4294967296 bytes, of which 8388608"):
        await repository.resolve()
    with pytest.raises(ResourceExhausted, match="4294967296 bytes"):
        await repository.fetch_document(Descriptor(MANIFEST, digest(DOCUMENT), 4 << 30))


async def test_an_endless_manifest(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, endless({"Content-Type": MANIFEST}))
    with pytest.raises(ResourceExhausted, match="more than 8388608 bytes"):
        await repository.resolve()
    assert hostile.sent < 24 << 20
    hostile.on("GET", f"/v2/a/manifests/{digest(DOCUMENT)}", endless({"Content-Type": MANIFEST}))
    with pytest.raises(FailedPrecondition, match="more than the"):
        await repository.fetch_document(Descriptor(MANIFEST, digest(DOCUMENT), len(DOCUMENT)))


async def test_an_index_of_100000_manifests(hostile: Hostile, repository: Repository) -> None:
    entries = [{"mediaType": MANIFEST, "digest": digest(b"%d" % n), "size": n} for n in range(100_000)]
    body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    assert len(body) > 8 << 20
    both(hostile, document(body, INDEX))
    with pytest.raises(ResourceExhausted, match=f"{len(body)} bytes"):
        await repository.resolve()


async def test_what_head_does_not_say_get_does(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, answer(200, DOCUMENT, type=MANIFEST), answer(405), answer(500))
    hostile.on("GET", TAG, answer(200, DOCUMENT, type="application/json"))
    for _ in range(3):
        descriptor = await repository.resolve()
        assert (descriptor.media_type, descriptor.digest, descriptor.size) == (
            MANIFEST,
            digest(DOCUMENT),
            len(DOCUMENT),
        )
    assert hostile.count("GET") == 3


async def test_the_digest_that_is_stated_is_the_documents(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, answer(200, DOCUMENT, {"Docker-Content-Digest": digest(b"other")}, type=MANIFEST))
    with pytest.raises(FailedPrecondition, match="unexpected digest"):
        await repository.resolve()
    both(hostile, answer(200, DOCUMENT, {"Docker-Content-Digest": "sha256:zz"}, type=MANIFEST))
    with pytest.raises(FailedPrecondition, match='"sha256:zz" is no digest'):
        await repository.resolve()


async def test_a_digest_is_not_resolved_to_another(hostile: Hostile, connect: Connect) -> None:
    client = await connect()
    wanted = digest(b"wanted")
    for method in ("HEAD", "GET"):
        hostile.on(method, f"/v2/a/manifests/{wanted}", document(DOCUMENT))
    with pytest.raises(FailedPrecondition, match=f"expected {wanted}"):
        await client.repository(f"{hostile.host}/a@{wanted}").resolve()


@pytest.mark.parametrize("type", [MANIFEST, INDEX, "application/json"])
async def test_a_document_that_is_both_index_and_manifest(hostile: Hostile, repository: Repository, type: str) -> None:
    """CVE-2021-41190."""
    body = json.dumps({**json.loads(DOCUMENT), "manifests": [], "mediaType": None}).encode()
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, answer(200, body, type=type))
    with pytest.raises(Error, match=r"both an index and a manifest|says what it is"):
        await repository.resolve()


async def test_a_document_sent_as_what_it_is_not(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, answer(200, DOCUMENT, type=INDEX))
    with pytest.raises(FailedPrecondition, match="but its mediaType is"):
        await repository.resolve()


@pytest.mark.parametrize("suffix", ["json", "prettyjws"])
async def test_schema_1_is_refused(hostile: Hostile, repository: Repository, suffix: str) -> None:
    both(hostile, document(b'{"schemaVersion": 1}', f"application/vnd.docker.distribution.manifest.v1+{suffix}"))
    with pytest.raises(InvalidArgument, match="schema 1, which is not supported"):
        await repository.resolve()


@pytest.mark.parametrize("status", [200, 404, 503])
async def test_html_instead_of_json(hostile: Hostile, repository: Repository, status: int) -> None:
    page = b"<html><title>Welcome to the hotel\x1b[2J\x00</title>" + b"." * 5000
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, answer(status, page, type="text/html; charset=utf-8"))
    with pytest.raises(Error) as caught:
        await repository.resolve()
    assert "text/html" in caught.value.message
    assert hostile.host in caught.value.message
    assert len(caught.value.message) < 600
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'{"errors": 5}', b'{"errors": [5]}', b"{" * 100_000, b"\xff\xfe"]
)
async def test_errors_that_are_none(hostile: Hostile, repository: Repository, body: bytes) -> None:
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, answer(400, body))
    with pytest.raises(FailedPrecondition, match="answered 400"):
        await repository.resolve()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "MANIFEST_UNKNOWN", NotFound),
        (404, "NAME_UNKNOWN", NotFound),
        (400, "NAME_INVALID", InvalidArgument),
        (400, "TAG_INVALID", InvalidArgument),
        (403, "DENIED", PermissionDenied),
        (400, "DENIED", PermissionDenied),
        (401, "UNAUTHORIZED", Unauthenticated),
        (405, "UNSUPPORTED", Unimplemented),
        (429, "TOOMANYREQUESTS", ResourceExhausted),
        (418, "TEAPOT", FailedPrecondition),
        (500, "UNKNOWN", Unavailable),
    ],
)
async def test_errors_keep_their_kind(
    hostile: Hostile, repository: Repository, status: int, code: str, kind: type[Error]
) -> None:
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, error(status, code, "for a reason"))
    with pytest.raises(kind) as caught:
        await repository.resolve()
    for part in (f"{hostile.host}/a:1", f"answered {status}", "for a reason", code):
        assert part in caught.value.message


async def test_neither_tag_nor_digest(hostile: Hostile, connect: Connect) -> None:
    client = await connect()
    with pytest.raises(InvalidArgument, match="neither a tag nor a digest"):
        await client.repository(f"{hostile.host}/a").resolve()


# Tries


async def test_a_registry_that_recovers(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, error(503, "UNAVAILABLE"), hang_up(), error(502, "X"), document(DOCUMENT))
    assert (await repository.resolve()).digest == digest(DOCUMENT)
    assert hostile.count("HEAD") == 4


async def test_a_registry_that_does_not_recover(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, error(503, "UNAVAILABLE", "come later"))
    with pytest.raises(Unavailable, match="answered 503"):
        await repository.resolve()
    assert hostile.count("HEAD") == 4


async def test_what_is_wrong_is_not_tried_again(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", TAG, error(404, "MANIFEST_UNKNOWN"))
    with pytest.raises(NotFound):
        await repository.resolve()
    assert len(hostile.asked) == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_for(hostile: Hostile, repository: Repository, form: str) -> None:
    value = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    hostile.on("HEAD", TAG, error(429, "TOOMANYREQUESTS", headers={"Retry-After": value}), document(DOCUMENT))
    began = time.monotonic()
    await repository.resolve()
    assert time.monotonic() - began >= 0.9


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_not_waited_for_too_long(hostile: Hostile, repository: Repository, form: str) -> None:
    value = "86400" if form == "seconds" else formatdate(time.time() + 86400, usegmt=True)
    hostile.on("HEAD", TAG, error(429, "TOOMANYREQUESTS", headers={"Retry-After": value}))
    with pytest.raises(ResourceExhausted, match=r"try again in 86\d\d\d s"):
        await repository.resolve()
    assert len(hostile.asked) == 1


@pytest.mark.parametrize("value", ["", "soon", "-5", "99999999999999999999999", "Sun, 99 Foo 2026 99:99:99 GMT"])
async def test_a_retry_after_that_is_none(hostile: Hostile, repository: Repository, value: str) -> None:
    hostile.on("HEAD", TAG, error(429, "TOOMANYREQUESTS", headers={"Retry-After": value}), document(DOCUMENT))
    try:
        await repository.resolve()
    except ResourceExhausted as caught:
        assert "try again in" in caught.message


async def test_silence(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.2)
    both(hostile, silent())
    with pytest.raises(Unavailable, match="said nothing for too long"):
        await client.repository(f"{hostile.host}/a:1").resolve()


async def test_a_document_that_takes_for_ever(hostile: Hostile, connect: Connect) -> None:
    client = await connect(document_timeout=0.5)
    hostile.on("HEAD", TAG, answer(405))
    hostile.on("GET", TAG, trickle(DOCUMENT, 0.1))
    with pytest.raises(Unavailable, match=r"took longer than 0\.5 s"):
        await client.repository(f"{hostile.host}/a:1").resolve()


async def test_nobody_there(connect: Connect) -> None:
    client = await connect(retry_delay=0.01)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: cannot be reached: .*refused"):
        await client.repository("127.0.0.1:1/a:1").resolve()
    with pytest.raises(Unavailable, match="no address found"):
        await client.repository("registry.invalid/a:1").resolve()


@pytest.mark.parametrize(
    "data",
    [
        b"220 smtp.example ESMTP\r\n",
        b"\x00\x01\x02\x03" * 100,
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000 + b"\r\n",
    ],
    ids=["smtp", "zeros", "status", "negative", "lengths", "chunks", "long-header", "many-headers"],
)
async def test_what_is_no_http(hostile: Hostile, repository: Repository, data: bytes) -> None:
    both(hostile, raw(data))
    with pytest.raises(Error, match=hostile.host) as caught:
        await repository.resolve()
    assert len(caught.value.message) < 600


# Redirections


async def test_a_redirection_is_followed(hostile: Hostile, other: Hostile, repository: Repository) -> None:
    hostile.on("GET", BLOB, redirect(f"{other.url}/store?signature=a%2Fb%20c"))
    other.on("GET", "/store", cut(DATA, 100_000), blob(DATA))
    assert await collected(repository.fetch(LAYER)) == DATA
    assert other.asked[0].target == "/store?signature=a%2Fb%20c"
    assert other.asked[1].headers["range"] == "bytes=100000-"
    # The signature may have run out: the registry is asked anew.
    assert hostile.count("GET", BLOB) == 2


async def test_redirections_that_go_round(hostile: Hostile, repository: Repository) -> None:
    both(hostile, redirect(TAG))
    with pytest.raises(FailedPrecondition, match="more than 10 redirections"):
        await repository.resolve()
    assert len(hostile.asked) == 11


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "//", "http://[::1", "\x7f"]
)
async def test_redirections_to_nowhere(hostile: Hostile, repository: Repository, location: str) -> None:
    both(hostile, redirect(location))
    with pytest.raises(Error):
        await repository.resolve()


# Foreign layers


async def test_a_foreign_layer_comes_from_where_its_manifest_says(
    hostile: Hostile, other: Hostile, repository: Repository
) -> None:
    descriptor = Descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        LAYER.digest,
        LAYER.size,
        urls=["ftp://x/", f"{other.url}/gone", f"{other.url}/layer"],
    )
    other.on("GET", "/layer", blob(DATA))
    assert await collected(repository.fetch(descriptor)) == DATA
    assert [each.path for each in other.asked] == ["/gone", "/layer"]


async def test_other_layers_have_no_other_address(hostile: Hostile, other: Hostile, repository: Repository) -> None:
    descriptor = Descriptor(LAYER.media_type, LAYER.digest, LAYER.size, urls=[f"{other.url}/layer"])
    with pytest.raises(NotFound):
        await collected(repository.fetch(descriptor))
    assert other.asked == []


# Lists


async def test_tags_come_in_pages(hostile: Hostile, repository: Repository) -> None:
    pages = [
        answer(200, b'{"name": "a", "tags": ["1", "2"]}', {"Link": '</v2/a/tags/list?n=2&last=2>; rel="next"'}),
        answer(200, b'{"name": "a", "tags": ["3"]}', {"Link": '<tags/list>; rel="prev"'}),
    ]
    hostile.on("GET", "/v2/a/tags/list", *pages)
    assert [tag async for tag in repository.tags()] == ["1", "2", "3"]
    assert hostile.asked[1].query == {"n": "2", "last": "2"}


@pytest.mark.parametrize("target", ["/v2/a/tags/list?n=1000", "?n=1000", "/v2/a/tags/list?x"])
async def test_pages_that_go_round(hostile: Hostile, repository: Repository, target: str) -> None:
    hostile.on("GET", "/v2/a/tags/list", answer(200, b'{"tags": ["1"]}', {"Link": f"<{target}>; rel=next"}))
    with pytest.raises(FailedPrecondition, match="one that has been read"):
        assert [tag async for tag in repository.tags()]
    assert len(hostile.asked) <= 2


async def test_pages_of_another_server(hostile: Hostile, other: Hostile, repository: Repository) -> None:
    hostile.on("GET", "/v2/a/tags/list", answer(200, b'{"tags": []}', {"Link": f"<{other.url}/>; rel=next"}))
    with pytest.raises(FailedPrecondition, match="another server"):
        assert [tag async for tag in repository.tags()]
    assert other.asked == []


@pytest.mark.parametrize("body", [b'{"tags": 5}', b'{"tags": [5]}', b'{"tags": ["../x"]}', b"[]", b"x"])
async def test_tags_that_are_none(hostile: Hostile, repository: Repository, body: bytes) -> None:
    hostile.on("GET", "/v2/a/tags/list", answer(200, body))
    with pytest.raises(Error, match=hostile.host):
        assert [tag async for tag in repository.tags()]


async def test_a_repository_without_tags(hostile: Hostile, repository: Repository) -> None:
    hostile.on("GET", "/v2/a/tags/list", answer(200, b'{"name": "a", "tags": null}'))
    assert [tag async for tag in repository.tags()] == []


# What headers may hold


async def test_headers_that_are_no_utf_8(hostile: Hostile, repository: Repository) -> None:
    for name in ("Content-Type", "Docker-Content-Digest", "Location", "WWW-Authenticate", "Content-Encoding", "Link"):
        for status, challenge in ((200, b""), (307, b""), (401, b"Bearer realm=http://127.0.0.1:1/,service=")):
            line = name.encode() + b": " + challenge + b"\xff\xfe\x1b[2J\r\n"
            both(hostile, raw(b"HTTP/1.1 %d X\r\n%sContent-Length: 2\r\n\r\n{}" % (status, line)))
            with pytest.raises(Error) as caught:
                await repository.resolve()
            assert caught.value.message.isprintable()


async def test_an_error_that_never_ends(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.5)

    async def behave(asked: Asked, connection: Connection) -> None:
        await connection.head(404, {"Content-Length": "60000"})
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.1)

    hostile.on("GET", BLOB, behave)
    with pytest.raises(NotFound, match="answered 404"):
        await collected(client.repository(f"{hostile.host}/a").fetch(LAYER))


async def test_a_server_that_waits_for_the_end_of_a_line(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every server that speaks no TLS says so: one may take the handshake for the beginning of a request."""
    monkeypatch.setattr("wherry.registry.transport._PROBE_TIMEOUT", 0.3)
    client = await connect()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) != b"\x16":
            await reader.readuntil(b"\r\n\r\n")
            headers = f"Content-Type: {MANIFEST}\r\nDocker-Content-Digest: {digest(DOCUMENT)}\r\n"
            writer.write(f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(DOCUMENT)}\r\n\r\n".encode())
        else:
            await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert (await client.repository(f"127.0.0.1:{port}/a:1").resolve()).digest == digest(DOCUMENT)
        server.close()

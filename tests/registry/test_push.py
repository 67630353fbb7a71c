"""Uploads to registries that break off, forget, demand chunks, or say nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

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
    digest,
    document,
    error,
    hang_up,
    reads_itself,
    redirect,
    refuse_amid,
)
from wherry.errors import (
    DataLoss,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from wherry.oci.descriptor import Descriptor
from wherry.registry.client import Repository
from wherry.registry.push import Pushed

DATA = bytes(range(256)) * 4096  # 1 MiB
LAYER = Descriptor("application/vnd.oci.image.layer.v1.tar", digest(DATA), len(DATA))
BLOB = f"/v2/a/blobs/{LAYER.digest}"
UPLOADS = "/v2/a/blobs/uploads/"
BEGUN = answer(202, headers={"Location": "/upload/1?state=x"})
STORED = answer(201, headers={"Docker-Content-Digest": LAYER.digest})


def reader(data: bytes = DATA) -> Callable[[int], AsyncIterator[bytes]]:
    async def read(offset: int) -> AsyncIterator[bytes]:
        for at in range(offset, len(data), 65536):
            yield data[at : at + 65536]

    return read


@pytest.fixture
async def repository(hostile: Hostile, connect: Connect) -> Repository:
    found = (await connect()).repository(f"{hostile.host}/a:1")
    assert isinstance(found, Repository)
    return found


class Uploads:
    """A registry's uploads as they should be: what arrived is kept, also of a request that broke off."""

    def __init__(self, server: Hostile, *, break_after: int = 0, forget: bool = False) -> None:
        self.data = b""
        #: How many bytes a request of a blob may have before it is broken off, once.
        self.break_after = break_after
        self.forget = forget
        self._server = server
        server.on("POST", UPLOADS, self.begin)
        server.on("PUT", "/upload/1", reads_itself(self.put))
        server.on("PATCH", "/upload/1", reads_itself(self.patch))
        server.on("GET", "/upload/1", self.status)
        server.on("DELETE", "/upload/1", answer(204))

    async def begin(self, asked: Asked, connection: Connection) -> None:
        self.data = b""
        await answer(202, headers={"Location": "/upload/1?state=x", "OCI-Chunk-Min-Length": "300000"})(
            asked, connection
        )

    async def take(self, asked: Asked, connection: Connection) -> bool:
        left = int(asked.headers["content-length"])
        if self.break_after and left:
            self.data += await connection.reader.readexactly(self.break_after)
            self.break_after = 0
            connection.writer.transport.abort()
            return False
        self.data += await connection.reader.readexactly(left)
        return True

    async def put(self, asked: Asked, connection: Connection) -> None:
        if await self.take(asked, connection):
            right = asked.query == {"state": "x", "digest": LAYER.digest} and digest(self.data) == LAYER.digest
            await (STORED if right else error(400, "DIGEST_INVALID"))(asked, connection)

    async def patch(self, asked: Asked, connection: Connection) -> None:
        begin, _, end = asked.headers["content-range"].partition("-")
        assert int(asked.headers["content-length"]) == int(end) - int(begin) + 1
        if int(begin) != len(self.data):
            await answer(416)(asked, connection)
        elif await self.take(asked, connection):
            await self.told(202)(asked, connection)

    async def status(self, asked: Asked, connection: Connection) -> None:
        await (error(404, "BLOB_UPLOAD_UNKNOWN") if self.forget else self.told(204))(asked, connection)

    def told(self, status: int) -> Behaviour:
        headers = {"Location": "/upload/1?state=x", "Range": f"0-{max(len(self.data) - 1, 0)}"}
        return answer(status, headers=headers)


async def test_a_blob_goes_up_in_one(hostile: Hostile, repository: Repository) -> None:
    uploads = Uploads(hostile)
    told: list[int] = []
    assert await repository.push_blob(LAYER, reader(), on_progress=told.append) is Pushed.PUSHED
    assert uploads.data == DATA
    assert (told[0], told[-1]) == (0, len(DATA))
    assert told == sorted(told)
    assert [each.method for each in hostile.asked] == ["HEAD", "POST", "PUT"]


async def test_a_blob_that_is_there_is_left_there(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", BLOB, answer(200, DATA))
    assert await repository.push_blob(LAYER, reader(b"")) is Pushed.EXISTED
    assert len(hostile.asked) == 1


async def test_an_empty_blob(hostile: Hostile, repository: Repository, connect: Connect) -> None:
    empty = Descriptor("x", digest(b""), 0)
    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", answer(201))
    assert await repository.push_blob(empty, reader(b"")) is Pushed.PUSHED
    chunked = (await connect(chunk_size=10)).repository(f"{hostile.host}/a")
    assert await chunked.push_blob(empty, reader(b"")) is Pushed.PUSHED


async def test_chunks_are_as_large_as_the_registry_wants(hostile: Hostile, connect: Connect) -> None:
    repository = (await connect(chunk_size=1000)).repository(f"{hostile.host}/a")
    uploads = Uploads(hostile)
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    assert uploads.data == DATA
    ranges = [each.headers["content-range"] for each in hostile.asked if each.method == "PATCH"]
    assert ranges == ["0-299999", "300000-599999", "600000-899999", f"900000-{len(DATA) - 1}"]


@pytest.mark.parametrize("chunk", [0, 400_000])
async def test_a_broken_upload_goes_on_where_it_was(hostile: Hostile, connect: Connect, chunk: int) -> None:
    repository = (await connect(chunk_size=chunk)).repository(f"{hostile.host}/a")
    uploads = Uploads(hostile, break_after=200_000)
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    assert uploads.data == DATA
    assert hostile.count("POST") == 1
    assert next(each for each in hostile.asked if each.method == "GET").path == "/upload/1"
    ranges = [each.headers["content-range"] for each in hostile.asked if each.method == "PATCH"]
    assert ranges[1 if chunk else 0].startswith("200000-")


async def test_a_forgotten_upload_begins_anew(hostile: Hostile, repository: Repository) -> None:
    uploads = Uploads(hostile, break_after=200_000, forget=True)
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    assert uploads.data == DATA
    assert hostile.count("POST") == 2


async def test_only_the_answer_was_lost(hostile: Hostile, repository: Repository) -> None:
    hostile.on("HEAD", BLOB, error(404, "BLOB_UNKNOWN"), answer(200, DATA))
    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", hang_up())
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED


async def test_an_upload_that_never_gets_anywhere_ends(hostile: Hostile, repository: Repository) -> None:
    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", refuse_amid(1000))
    hostile.on("DELETE", "/upload/1", answer(204))
    with pytest.raises(Unavailable, match=hostile.host):
        await repository.push_blob(LAYER, reader())
    assert hostile.count("PUT") == 4
    assert hostile.count("DELETE") >= 1


async def test_a_server_that_does_not_read(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.3, tries=2)
    data = DATA * 32
    large = Descriptor("x", digest(data), len(data))

    async def behave(asked: Asked, connection: Connection) -> None:
        await asyncio.sleep(60)

    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", reads_itself(behave))
    with pytest.raises(Unavailable, match="said nothing for too long"):
        await client.repository(f"{hostile.host}/a").push_blob(large, reader(data))


async def test_a_slow_source_is_waited_for(hostile: Hostile, connect: Connect) -> None:
    client = await connect(stall_timeout=0.3)
    uploads = Uploads(hostile)

    async def read(offset: int) -> AsyncIterator[bytes]:
        yield DATA[:1000]
        await asyncio.sleep(1)
        yield DATA[1000:]

    assert await client.repository(f"{hostile.host}/a").push_blob(LAYER, read) is Pushed.PUSHED
    assert uploads.data == DATA


async def test_what_the_source_says_is_said(hostile: Hostile, repository: Repository) -> None:
    Uploads(hostile)

    async def read(offset: int) -> AsyncIterator[bytes]:
        yield DATA[:1000]
        raise DataLoss("blob x is damaged")

    with pytest.raises(DataLoss, match="blob x is damaged"):
        await repository.push_blob(LAYER, read)
    with pytest.raises(DataLoss, match=f"only 1000 bytes to push, not {len(DATA)}"):
        await repository.push_blob(LAYER, reader(DATA[:1000]))


async def test_a_source_of_too_much_is_cut(hostile: Hostile, repository: Repository) -> None:
    uploads = Uploads(hostile)
    assert await repository.push_blob(LAYER, reader(DATA + b"more")) is Pushed.PUSHED
    assert uploads.data == DATA


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "DIGEST_INVALID", InvalidArgument),
        (403, "DENIED", PermissionDenied),
        (413, "SIZE_INVALID", InvalidArgument),
        (413, "", ResourceExhausted),
    ],
)
async def test_a_refused_upload(
    hostile: Hostile, repository: Repository, status: int, code: str, kind: type[Error]
) -> None:
    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", error(status, code))
    with pytest.raises(kind, match=f"answered {status}"):
        await repository.push_blob(LAYER, reader())
    assert hostile.count("PUT") == 1


# Where to


async def test_an_upload_elsewhere_takes_no_credentials_along(
    hostile: Hostile, other: Hostile, connect: Connect
) -> None:
    client = await connect(headers={"X-Secret": "white-whale"})
    hostile.on("POST", UPLOADS, answer(202, headers={"Location": f"{other.url}/store"}))
    other.on("PUT", "/store", answer(201))
    assert await client.repository(f"{hostile.host}/a").push_blob(LAYER, reader()) is Pushed.PUSHED
    assert other.asked[0].body == DATA
    assert hostile.saw("white-whale")
    assert not other.saw("white-whale")


async def test_an_upload_stays_encrypted(encrypted: Hostile, other: Hostile, connect: Connect) -> None:
    repository = (await connect()).repository(f"{encrypted.host}/a")
    # What a registry behind somebody else's TLS says of itself.
    encrypted.on("POST", UPLOADS, answer(202, headers={"Location": f"http://{encrypted.host}/upload/1"}))
    encrypted.on("PUT", "/upload/1", answer(201))
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    encrypted.on("POST", UPLOADS, answer(202, headers={"Location": f"http://localhost:{other.host[10:]}/x"}))
    with pytest.raises(FailedPrecondition, match="no upload to http://localhost"):
        await repository.push_blob(LAYER, reader())
    assert other.asked == []


@pytest.mark.parametrize("location", ["", "ftp://x/y", "http://[::1"])
async def test_an_upload_to_nowhere(hostile: Hostile, repository: Repository, location: str) -> None:
    hostile.on("POST", UPLOADS, answer(202, headers={"Location": location}))
    with pytest.raises(FailedPrecondition, match=hostile.host):
        await repository.push_blob(LAYER, reader())


async def test_a_redirected_upload_is_sent_on_only_by_307(
    hostile: Hostile, other: Hostile, repository: Repository
) -> None:
    hostile.on("POST", UPLOADS, BEGUN)
    hostile.on("PUT", "/upload/1", redirect(f"{other.url}/store", 302))
    with pytest.raises(FailedPrecondition, match="which a PUT cannot follow"):
        await repository.push_blob(LAYER, reader())
    hostile.on("PUT", "/upload/1", redirect(f"{other.url}/store", 307))
    other.on("PUT", "/store", answer(201))
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    assert other.asked[0].body == DATA


# Mounts


async def test_the_last_of_the_mounts_that_failed_is_gone_on_with(hostile: Hostile, repository: Repository) -> None:
    uploads = Uploads(hostile)
    assert await repository.push_blob(LAYER, reader(), mount_from=["a", "b", "c", "NOT/A/NAME"]) is Pushed.PUSHED
    assert [each.query.get("from") for each in hostile.asked if each.method == "POST"] == ["b", "c"]
    assert hostile.count("DELETE") == 1
    assert uploads.data == DATA


async def test_a_mount(hostile: Hostile, repository: Repository) -> None:
    hostile.on("POST", UPLOADS, error(403, "DENIED"), answer(201))
    assert await repository.push_blob(LAYER, reader(b""), mount_from=["b", "c"]) is Pushed.MOUNTED
    assert hostile.asked[-1].query == {"mount": LAYER.digest, "from": "c"}


# Manifests

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2}
PLAIN = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": CONFIG, "layers": []}).encode()
SUBJECT = {"mediaType": MANIFEST, "digest": digest(PLAIN), "size": len(PLAIN)}
SIGNATURE = json.dumps(
    {
        **json.loads(PLAIN),
        "artifactType": "application/x-signature",
        "subject": SUBJECT,
        "annotations": {"by": "ahab"},
    }
).encode()
TAGGED = f"/v2/a/manifests/sha256-{digest(PLAIN)[7:]}"


def described(data: bytes) -> Descriptor:
    return Descriptor(MANIFEST, digest(data), len(data))


async def test_a_manifest_is_stored_by_tag_or_digest(hostile: Hostile, repository: Repository) -> None:
    for name in ("7", digest(PLAIN)):
        hostile.on("PUT", f"/v2/a/manifests/{name}", answer(201))
    await repository.push_manifest(described(PLAIN), PLAIN, "7")
    await repository.push_manifest(described(PLAIN), PLAIN)
    assert [(each.headers["content-type"], each.body) for each in hostile.asked] == [(MANIFEST, PLAIN)] * 2
    with pytest.raises(InvalidArgument, match="no tag"):
        await repository.push_manifest(described(PLAIN), PLAIN, "../x")
    with pytest.raises(FailedPrecondition, match="unexpected digest"):
        await repository.push_manifest(described(PLAIN), SIGNATURE)
    assert len(hostile.asked) == 2


async def test_a_registry_that_stores_something_else(hostile: Hostile, repository: Repository) -> None:
    hostile.on("PUT", "/v2/a/manifests/1", answer(201, headers={"Docker-Content-Digest": digest(b"else")}))
    with pytest.raises(FailedPrecondition, match="the registry stored sha256:"):
        await repository.push_manifest(described(PLAIN), PLAIN, "1")


async def test_a_registry_that_knows_subjects_needs_no_index(hostile: Hostile, repository: Repository) -> None:
    hostile.on("PUT", f"/v2/a/manifests/{digest(SIGNATURE)}", answer(201, headers={"OCI-Subject": digest(PLAIN)}))
    await repository.push_manifest(described(SIGNATURE), SIGNATURE)
    assert len(hostile.asked) == 1


async def test_else_the_index_of_referrers_is_kept(hostile: Hostile, repository: Repository) -> None:
    older = {"mediaType": MANIFEST, "digest": digest(b"older"), "size": 5, "artifactType": "application/x-bom"}
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [older]}
    hostile.on("PUT", f"/v2/a/manifests/{digest(SIGNATURE)}", answer(201))
    hostile.on("GET", TAGGED, document(json.dumps(index).encode(), INDEX))
    hostile.on("PUT", TAGGED, answer(201))
    await repository.push_manifest(described(SIGNATURE), SIGNATURE)
    newer = {
        "mediaType": MANIFEST,
        "digest": digest(SIGNATURE),
        "size": len(SIGNATURE),
        "annotations": {"by": "ahab"},
        "artifactType": "application/x-signature",
    }
    written = hostile.asked[-1].body
    assert json.loads(written) == {**index, "manifests": [older, newer]}
    # A second time there is nothing to do.
    hostile.on("GET", TAGGED, document(written, INDEX))
    await repository.push_manifest(described(SIGNATURE), SIGNATURE)
    assert hostile.count("PUT", TAGGED) == 1
    # And it is read where there is no other list.
    assert [each.digest for each in await repository.referrers(digest(PLAIN))] == [digest(b"older"), digest(SIGNATURE)]
    found = await repository.referrers(digest(PLAIN), "application/x-signature")
    assert [(each.digest, each.annotations) for each in found] == [(digest(SIGNATURE), {"by": "ahab"})]


async def test_referrers_by_the_registry(hostile: Hostile, repository: Repository) -> None:
    def page(*types: str, link: str = "") -> Behaviour:
        manifests = [
            {"mediaType": MANIFEST, "digest": digest(type.encode()), "size": 5, "artifactType": type} for type in types
        ]
        body = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()
        return answer(200, body, {"Link": link} if link else {}, type=INDEX)

    path = f"/v2/a/referrers/{digest(PLAIN)}"
    hostile.on("GET", path, page("a", "b", link=f'<{path}?n=2>; rel="next"'), page("a"))
    found = await repository.referrers(digest(PLAIN), "a")
    assert [each.artifact_type for each in found] == ["a", "a"]
    assert hostile.asked[0].query == {"artifactType": "a"}


async def test_no_referrers(hostile: Hostile, repository: Repository) -> None:
    assert await repository.referrers(digest(PLAIN)) == []


async def test_delete(hostile: Hostile, repository: Repository) -> None:
    hostile.on("DELETE", f"/v2/a/manifests/{digest(PLAIN)}", answer(202))
    await repository.delete_manifest(digest(PLAIN))


async def test_a_registry_that_forgets_amid_an_upload(hostile: Hostile, repository: Repository) -> None:
    """Another of several registries behind one name, which knows nothing of the upload that was begun."""
    uploads = Uploads(hostile)
    hostile.on("PUT", "/upload/1", error(404, "BLOB_UPLOAD_UNKNOWN"), reads_itself(uploads.put))
    hostile.on("GET", "/upload/1", error(404, "BLOB_UPLOAD_UNKNOWN"))
    assert await repository.push_blob(LAYER, reader()) is Pushed.PUSHED
    assert hostile.count("POST") == 2
    hostile.on("POST", UPLOADS, error(404, "NAME_UNKNOWN"))
    with pytest.raises(NotFound):
        await repository.push_blob(LAYER, reader())
    assert hostile.count("POST") == 3

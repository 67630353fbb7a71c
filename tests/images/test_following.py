"""Layers applied while they are still being fetched."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import zstandard

from tests.images.trees import archive, entry, read_tree
from tests.images.worker import alone, bind, described
from tests.store.stores import Client, Stores, local_client, opened
from wherry.api.services.diff.v1 import diff_pb2 as api
from wherry.api.types.types_pb2 import Descriptor
from wherry.api.types.types_pb2 import Mount as MountMessage
from wherry.errors import AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from wherry.images import process
from wherry.images.following import COMPLETE, OFFSET_SIZE
from wherry.images.layer import GrowingFile
from wherry.rpc.context import FOLLOW
from wherry.store.content import ContentWriter
from wherry.store.following import Following, Progress

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

OCI = "application/vnd.oci.image.layer.v1.tar"
RANDOM = random.Random(1)
LAYER = archive([entry(f"dir/file-{number}", data=RANDOM.randbytes(30_000)) for number in range(60)])
COMPRESSED = {"gzip": gzip.compress(LAYER), "zstd": zstandard.compress(LAYER), "plain": LAYER}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Feed:
    """A file that grows as fast as the test says."""

    def __init__(self, path: Path, data: bytes, pieces: int, failure: Exception | None = None) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.data = data
        self.size = len(data) // pieces + 1
        self.failure = failure
        self.told: list[int] = []

    def fileno(self) -> int:
        return self.fd

    async def __aiter__(self) -> AsyncIterator[int]:
        for at in range(0, len(self.data), self.size):
            os.pwrite(self.fd, self.data[at : at + self.size], at)
            self.told.append(min(at + self.size, len(self.data)))
            yield self.told[-1]
            await asyncio.sleep(0.01)
            if self.failure is not None and at > len(self.data) // 2:
                raise self.failure


def arguments(target: Path) -> dict[str, object]:
    return {
        "action": "apply",
        "mounts": [described(bind(target))],
        "mount_point": str(target),
        "compressed": True,
        "sync": False,
    }


@pytest.mark.parametrize("kind", list(COMPRESSED))
@pytest.mark.parametrize("pieces", [1, 7, 40])
async def test_a_slow_feed(kind: str, pieces: int, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    feed = Feed(tmp_path / "blob", COMPRESSED[kind], pieces)
    try:
        answer = await process.run_following(process.spawn_subprocess, arguments(target), feed)
    finally:
        os.close(feed.fd)
    assert (answer["digest"], answer["size"]) == (digest(LAYER), len(LAYER))
    assert len(read_tree(target)) == 61
    assert feed.told[-1] == len(COMPRESSED[kind])


async def test_extraction_begins_before_the_end(tmp_path: Path) -> None:
    """The feed waits until the first files are there."""
    target = tmp_path / "target"
    target.mkdir()
    feed = Feed(tmp_path / "blob", COMPRESSED["gzip"], 2)

    class Waiting:
        def fileno(self) -> int:
            return feed.fd

        async def __aiter__(self) -> AsyncIterator[int]:
            async for offset in feed:
                yield offset
                while not (target / "dir/file-5").exists():
                    await asyncio.sleep(0.01)

    try:
        await process.run_following(process.spawn_subprocess, arguments(target), Waiting())
    finally:
        os.close(feed.fd)


async def test_a_feed_that_breaks_off(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    feed = Feed(tmp_path / "blob", COMPRESSED["gzip"], 10, FailedPrecondition("wrong digest"))
    with pytest.raises(FailedPrecondition, match="wrong digest"):
        await process.run_following(process.spawn_subprocess, arguments(target), feed)
    os.close(feed.fd)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_damaged_layer_ends_before_its_feed(tmp_path: Path) -> None:
    """Not only when the last byte has come."""
    target = tmp_path / "target"
    target.mkdir()
    feed = Feed(tmp_path / "blob", b"this is no archive " * 100_000, 1000)
    with pytest.raises(InvalidArgument, match="invalid tar header"):
        await process.run_following(process.spawn_subprocess, arguments(target), feed)
    assert len(feed.told) < 900
    os.close(feed.fd)


def messages(*offsets: int) -> bytes:
    return b"".join(offset.to_bytes(OFFSET_SIZE, "little") for offset in offsets)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "given up"),
        (messages(10), "given up"),
        (messages(10) + b"abc", "given up"),
        (messages(10, 5), "started again"),
        (messages(10, COMPLETE, 20), "started again"),
        (messages(40, COMPLETE), "shorter"),
    ],
)
def test_wrong_ends(said: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(30))
    read, write = os.pipe()
    fd = os.open(tmp_path / "blob", os.O_RDONLY)
    try:
        os.write(write, said)
        os.close(write)
        source = GrowingFile(fd, read)
        with pytest.raises(Unavailable, match=words):
            while source.read(7):
                pass
    finally:
        os.close(read)
        os.close(fd)


def test_messages_may_come_in_parts(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(bytes(range(30)))
    read, write = os.pipe()
    fd = os.open(tmp_path / "blob", os.O_RDONLY)
    source = GrowingFile(fd, read)
    said = messages(3, 10, 30, COMPLETE)
    os.write(write, said[:12])
    assert source.read(100) == bytes(range(3))
    os.write(write, said[12:])
    assert b"".join(iter(lambda: source.read(4), b"")) == bytes(range(3, 30))
    for each in (read, write, fd):
        os.close(each)


# An ingest that is followed.


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    directory = tmp_path / "stores"
    directory.mkdir()
    async with opened(directory) as stores:
        yield stores


@pytest.fixture
def client(stores: Stores) -> Client:
    return local_client(stores)


async def apply(client: Client, data: bytes, directory: Path) -> api.ApplyResponse:
    mount = alone(directory)
    request = api.ApplyRequest(
        diff=Descriptor(media_type=OCI + "+gzip", digest=digest(data), size=len(data)),
        mounts=[MountMessage(type=mount.type, source=mount.source, options=mount.options)],
    )
    answer: api.ApplyResponse = await client.diff.apply(request, metadata=[*client.metadata(), (FOLLOW, "")])
    return answer


async def test_an_ingest_is_followed(client: Client, stores: Stores, tmp_path: Path) -> None:
    data = COMPRESSED["gzip"]
    async with await stores.content.writer(client.namespace, "ref", expected=digest(data)) as writer:
        await writer.write(data[:500_000])
        task = asyncio.create_task(apply(client, data, tmp_path))
        while not (tmp_path / "fs/dir/file-5").exists():
            await asyncio.sleep(0.01)
        for at in range(500_000, len(data), 100_000):
            await writer.write(data[at : at + 100_000])
        await asyncio.sleep(0.1)
        assert not task.done()  # all the bytes are there, but nobody has said that they are right
        await writer.commit(len(data), digest(data))
        assert (await task).applied.digest == digest(LAYER)
    # A blob that is there is read as any other.
    assert (await apply(client, data, tmp_path / "again")).applied.digest == digest(LAYER)


async def _wrong_digest(writer: ContentWriter, data: bytes) -> None:
    await writer.write(data[writer.offset : -1] + b"x")
    with pytest.raises(FailedPrecondition):
        await writer.commit(expected=digest(data))


async def _wrong_size(writer: ContentWriter, data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        await writer.commit(5)


async def _left(writer: ContentWriter, data: bytes) -> None:
    writer.close()


async def _restarted(writer: ContentWriter, data: bytes) -> None:
    await writer.truncate()
    await writer.write(data)


async def _aborted(writer: ContentWriter, data: bytes) -> None:
    await writer.abort()
    with pytest.raises(NotFound):
        await writer.commit()


ENDS: list[tuple[Callable[..., object], type[Error], str]] = [
    (_wrong_digest, FailedPrecondition, "unexpected commit digest"),
    (_wrong_size, FailedPrecondition, "failed size validation"),
    (_left, Unavailable, "left before it was complete"),
    (_restarted, Unavailable, "started again"),
    (_aborted, NotFound, "ingest of content"),
]


@pytest.mark.parametrize(("end", "kind", "words"), ENDS, ids=[end.__name__.strip("_") for end, _, _ in ENDS])
async def test_what_ends_an_ingest_ends_the_apply(
    end: Callable[..., object], kind: type[Error], words: str, client: Client, stores: Stores, tmp_path: Path
) -> None:
    data = COMPRESSED["gzip"]
    before = len(os.listdir("/proc/self/fd"))
    writer = await stores.content.writer(client.namespace, uuid.uuid4().hex, expected=digest(data))
    try:
        await writer.write(data[:500_000])
        task = asyncio.create_task(apply(client, data, tmp_path))
        while not (tmp_path / "fs/dir/file-5").exists():
            await asyncio.sleep(0.01)
        await end(writer, data)  # type: ignore[misc]
        with pytest.raises(kind, match=words):
            await task
    finally:
        if end is not _left:
            writer.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_nothing_to_follow(client: Client, stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no ingest is being written"):
        await apply(client, b"absent", tmp_path)
    data = COMPRESSED["gzip"]
    writer = await stores.content.writer(client.namespace, "ref", expected=digest(data))
    writer.close()
    with pytest.raises(NotFound, match="no ingest is being written"):
        await apply(client, data, tmp_path)


async def test_another_namespaces_blob_is_followed_at_once(client: Client, stores: Stores, tmp_path: Path) -> None:
    data = COMPRESSED["gzip"]
    async with await stores.content.writer("other", "ref") as writer:
        await writer.write(data)
        await writer.commit()
    async with await stores.content.writer(client.namespace, "ref", expected=digest(data)) as writer:
        task = asyncio.create_task(apply(client, data, tmp_path))
        while not (tmp_path / "fs/dir/file-59").exists():
            await asyncio.sleep(0.01)
        await writer.commit()
        assert (await task).applied.digest == digest(LAYER)


async def test_who_comes_second_has_the_same_bytes(client: Client, stores: Stores) -> None:
    data = b"data"
    async with await stores.content.writer(client.namespace, "one", expected=digest(data)) as first:
        async with await stores.content.writer(client.namespace, "two") as second:
            await second.write(data)
            await second.commit()
        following = stores.content.follow(client.namespace, digest(data))
        await first.write(data)
        with pytest.raises(AlreadyExists):
            await first.commit()
        assert [offset async for offset in following] == [4]
        following.close()


async def test_a_follower_is_told_the_latest_only() -> None:
    progress = Progress(0)
    following = Following(os.open("/dev/null", os.O_RDONLY), progress)
    for offset in range(1, 100):
        progress.advance(offset)
    async with aclosing(following.__aiter__()) as offsets:  # type: ignore[type-var]
        assert await anext(offsets) == 99
        progress.advance(100)
        progress.advance(120)
        assert await anext(offsets) == 120
        progress.commit()
        with pytest.raises(StopAsyncIteration):
            await anext(offsets)
    following.close()

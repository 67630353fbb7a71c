"""The content store and its service, and the same calls to Debian's containerd."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.stores import Client, Stores, local_client, opened, requests
from wherry.api.services.content.v1 import content_pb2 as api
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.wellknown_pb2 import FieldMask
from wherry.errors import (
    AlreadyExists,
    Error,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from wherry.rpc.context import metadata_for
from wherry.store.content import ContentStore
from wherry.store.database import Database

STAT, WRITE, COMMIT = api.STAT, api.WRITE, api.COMMIT
A, B = b"a" * 100, b"b" * 50


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def message(action: int, **fields: Any) -> api.WriteContentRequest:
    return api.WriteContentRequest(action=action, **fields)  # type: ignore[arg-type]


def comparable(response: Any) -> Any:
    """What does not differ from one run to the next: for times, whether there is one."""
    return (
        response.action,
        response.offset,
        response.total,
        response.digest,
        response.started_at.seconds > 0,  # Go's zero time, the year 1, is what 1.6 says for none
        response.updated_at.seconds > 0,
    )


async def write(client: Client, *messages: api.WriteContentRequest, **context: str) -> list[Any]:
    """What a stream of Write answers, when each message waits for the answer to the one before, as in Go."""
    answered = asyncio.Semaphore(1)

    async def paced() -> AsyncIterator[api.WriteContentRequest]:
        for each in messages:
            await answered.acquire()
            if over:
                return
            yield each
        await answered.acquire()

    over = False
    responses: list[Any] = []
    try:
        async for response in client.content.write(paced(), metadata=client.metadata(**context)):
            responses.append(comparable(response))
            answered.release()
    except Error as error:
        responses.append(type(error).__name__)
    finally:
        over = True
        answered.release()
    return responses


async def status(client: Client, ref: str, **context: str) -> Any:
    found = await client.outcome(client.content, "status", api.StatusRequest(ref=ref), **context)
    return found if isinstance(found, str) else (found.status.ref, found.status.offset, found.status.total)


async def info(client: Client, data: bytes, **context: str) -> Any:
    found = await client.outcome(client.content, "info", api.InfoRequest(digest=digest(data)), **context)
    return found if isinstance(found, str) else (found.info.digest, found.info.size, dict(found.info.labels))


#: Streams of Write, each list one after the other on one store, and the refs and blobs to look at after each.
SCENARIOS: dict[str, list[list[api.WriteContentRequest]]] = {
    "as Go writes": [
        [
            message(STAT, ref="r", total=150, expected=digest(A + B)),
            message(STAT),
            message(WRITE, data=A, offset=0),
            message(WRITE, data=B, offset=100),
            message(COMMIT, total=150, offset=150, expected=digest(A + B), labels={"a": "b", "empty": ""}),
        ]
    ],
    "no ref": [[message(STAT)], [message(WRITE, data=A)]],
    "data with the commit": [[message(COMMIT, ref="r", data=A, labels={"x": "y"})]],
    "half-closed, resumed": [
        [message(STAT, ref="r", total=150), message(WRITE, data=A)],
        [message(STAT, ref="r", total=150), message(WRITE, data=B, offset=100), message(COMMIT, offset=150, total=150)],
    ],
    "a later ref is ignored": [[message(STAT, ref="r"), message(WRITE, ref="other", data=A), message(STAT)]],
    "wrong offset": [
        [message(STAT, ref="r"), message(WRITE, data=A), message(WRITE, data=B, offset=30)],
        [message(STAT, ref="r")],
    ],
    "offset 0 starts again": [
        [message(STAT, ref="r"), message(WRITE, data=A), message(WRITE, data=B, offset=0), message(STAT)]
    ],
    "commit with offset 0": [
        [message(STAT, ref="r"), message(WRITE, data=A), message(COMMIT, total=100)],
        [message(STAT, ref="r")],
    ],
    "wrong size": [
        [message(STAT, ref="r"), message(WRITE, data=A), message(COMMIT, total=99, offset=100)],
        [message(STAT, ref="r"), message(COMMIT, total=100, offset=100)],
    ],
    "wrong digest": [
        [message(STAT, ref="r"), message(WRITE, data=A), message(COMMIT, offset=100, expected=digest(B))],
        [message(STAT, ref="r")],
    ],
    "an expected digest that is none": [
        [message(STAT, ref="r", expected="sha256:zz"), message(WRITE, data=A), message(COMMIT, offset=100)]
    ],
    "another total starts again": [
        [message(STAT, ref="r", total=150), message(WRITE, data=A)],
        [message(STAT, ref="r", total=140), message(STAT), message(WRITE, data=A + B)],
    ],
    "a total that is told later": [
        [message(STAT, ref="r"), message(WRITE, data=A)],
        [message(STAT, ref="r", total=100), message(WRITE, data=B, offset=100, total=150)],
        [message(STAT, ref="r")],
    ],
    "exists, told first": [
        [message(COMMIT, ref="r", data=A)],
        [message(STAT, ref="r2", expected=digest(A))],
    ],
    "exists, told later": [
        [message(COMMIT, ref="r", data=A)],
        [message(STAT, ref="r2"), message(WRITE, data=B), message(STAT, expected=digest(A))],
    ],
    "exists, found at the commit": [
        [message(COMMIT, ref="r", data=A)],
        [message(COMMIT, ref="r2", data=A)],
    ],
    "labels that are too long": [
        [message(WRITE, ref="r", data=A), message(COMMIT, offset=100, labels={"k": "v" * 4096})],
        [message(STAT, ref="r")],
    ],
    "empty blob": [[message(STAT, ref="r", expected=digest(b"")), message(COMMIT, expected=digest(b""))]],
    "write, then commit without a stat": [[message(WRITE, ref="r", data=A, total=100), message(COMMIT, offset=100)]],
}


@pytest.mark.parametrize("name", list(SCENARIOS))
async def test_streams_of_write_as_containerd(name: str, ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        seen: list[Any] = []
        for stream in SCENARIOS[name]:
            seen.append(await write(client, *stream))
            seen += [await status(client, ref) for ref in ("r", "r2", "other")]
            seen += [await info(client, data) for data in (A, B, A + B, b"")]
        results.append(seen)
    assert results[0] == results[1]


actions = st.tuples(
    st.sampled_from([STAT, WRITE, WRITE, COMMIT]),
    st.sampled_from(["", "a", "b"]),
    st.sampled_from([0, 0, 50, 100, 150]),
    st.sampled_from([0, 0, 100, 150]),
    st.sampled_from(["", "", "a", "ab"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams=st.lists(st.lists(actions, min_size=1, max_size=4), min_size=1, max_size=4))
async def test_any_streams_of_write_as_containerd(streams: list[list[Any]], ours: Client, theirs: Client) -> None:
    # Other bytes each time: what was deleted is still there for containerd until it collects garbage.
    a, b = os.urandom(100), os.urandom(50)
    blobs = {"": b"", "a": a, "b": b, "ab": a + b}
    results = []
    for client in (ours, theirs):
        namespace = client.new_namespace()
        seen: list[Any] = []
        for stream in streams:
            messages = [
                message(
                    action,
                    data=blobs[data],
                    offset=offset,
                    total=total,
                    expected=expected and digest(blobs[expected]),
                )
                for action, data, offset, total, expected in stream
            ]
            # After a commit the stream is over, whatever the client still says.
            commits = [number for number, each in enumerate(messages, 1) if each.action == COMMIT]
            del messages[commits[0] if commits else len(messages) :]
            messages[0].ref = "r"
            # A total that contradicts the first empties an ingest here at once, there only by what is written.
            messages[0].total = messages[0].total and 150
            seen.append(await write(client, *messages, namespace=namespace))
            seen.append(await status(client, "r", namespace=namespace))
        seen += [await info(client, data, namespace=namespace) for data in blobs.values()]
        results.append(seen)
    assert results[0] == results[1]


async def test_blobs_of_another_namespace_as_containerd(ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        first, second, third = (client.new_namespace() for _ in range(3))
        seen: list[Any] = [await write(client, message(COMMIT, ref="r", data=A), namespace=first)]
        # Told of the blob, the client only commits; until then it does not exist here.
        seen.append(await write(client, message(STAT, ref="r", total=100, expected=digest(A)), namespace=second))
        seen.append(await info(client, A, namespace=second))
        seen.append(
            await write(
                client,
                message(STAT, ref="r", expected=digest(A)),
                message(COMMIT, offset=100, total=100, expected=digest(A), labels={"l": "2"}),
                namespace=second,
            )
        )
        seen.append(await info(client, A, namespace=second))
        # Of another size, it is an ingest like any other; written to, it starts from the bytes that are there.
        seen.append(await write(client, message(STAT, ref="r", total=99, expected=digest(A)), namespace=third))
        seen.append(
            await write(
                client,
                message(STAT, ref="r2", expected=digest(A)),
                message(WRITE, data=B, offset=100),
                message(COMMIT, offset=150, total=150, expected=digest(A + B)),
                namespace=third,
            )
        )
        seen.append(
            await write(
                client,
                message(STAT, ref="r3", expected=digest(A)),
                message(WRITE, data=B, offset=0),
                message(STAT),
                namespace=third,
            )
        )
        seen += [await info(client, data, namespace=third) for data in (A, A + B)]
        # Deleted in one namespace, it stays in the other.
        await client.outcome(client.content, "delete", api.DeleteContentRequest(digest=digest(A)), namespace=first)
        seen += [await info(client, A, namespace=name) for name in (first, second)]
        read = await client.stream(client.content, "read", api.ReadContentRequest(digest=digest(A)), namespace=second)
        seen.append(b"".join(response.data for response in read))
        results.append(seen)
    assert results[0] == results[1]


async def test_reads_as_containerd(ours: Client, theirs: Client) -> None:
    data = os.urandom((5 << 20) // 2)
    results = []
    for client in (ours, theirs):
        messages = [
            message(WRITE, ref="r", data=data[at : at + (1 << 20)], offset=at) for at in range(0, len(data), 1 << 20)
        ]
        await write(client, *messages, message(COMMIT, offset=len(data)))
        seen = []
        for offset, size in (
            (0, 0),
            (0, 10),
            (100, 2 << 20),
            (1 << 20, -1),
            (len(data), 0),
            (len(data) + 1, 0),
            (5, 1 << 40),
        ):
            request = api.ReadContentRequest(digest=digest(data), offset=offset, size=size)
            read = await client.stream(client.content, "read", request)
            seen.append([each if isinstance(each, str) else (each.offset, each.data) for each in read])
        for bad in ("", "sha256:12", "md5:" + "0" * 32, "sha256:" + "G" * 64, digest(b"absent")):
            seen.append(await client.stream(client.content, "read", api.ReadContentRequest(digest=bad)))
        results.append(seen)
    assert results[0] == results[1]
    assert results[0][0][0][1] == data[: 1 << 20]


async def test_kinds_of_errors_as_containerd(ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        stub = client.content
        seen: list[Any] = []
        for bad in ("", "sha256:12", "md5:" + "0" * 32, digest(b"absent"), "sha512:" + "0" * 128):
            seen.append(await client.outcome(stub, "info", api.InfoRequest(digest=bad)))
            seen.append(await client.outcome(stub, "delete", api.DeleteContentRequest(digest=bad)))
            seen.append(await client.outcome(stub, "update", api.UpdateRequest(info=api.Info(digest=bad))))
        seen.append(await client.outcome(stub, "status", api.StatusRequest(ref="absent")))
        seen.append(await client.outcome(stub, "abort", api.AbortRequest(ref="absent")))
        seen.append(await client.outcome(stub, "list_statuses", api.ListStatusesRequest(filters=["ref=="])))
        seen.append(await client.stream(stub, "list", api.ListContentRequest(filters=["digest~~x"])))
        seen.append(await write(client, message(STAT, ref="r"), lease="absent"))
        results.append(seen)
    assert results[0] == results[1]


async def test_update_and_list_as_containerd(ours: Client, theirs: Client) -> None:
    blobs = [b"%d" % number for number in range(250)]
    results = []
    for client in (ours, theirs):
        for data in blobs:
            labels = {"n": data.decode(), "five": "yes" if int(data) % 5 == 0 else ""}
            await write(client, message(COMMIT, ref="r", data=data, labels=labels))
        seen: list[Any] = []
        for filters in (
            [],
            [""],
            ["labels.five"],
            ["labels.five==yes,labels.n~=^1"],
            [f"digest=={digest(b'7')}"],
            ["size==1"],
            ["labels.n==3", "labels.n==4"],
        ):
            listed = await client.stream(client.content, "list", api.ListContentRequest(filters=filters))
            seen.append([[(each.digest, each.size, dict(each.labels)) for each in page.info] for page in listed])
        for labels, paths in (
            ({"labels.a": "not this", "a": "1"}, ["labels.a"]),
            ({"a": "2", "containerd.io/gc.ref.content.l.0": "x"}, ["labels.containerd.io/gc.ref.content.l.0"]),
            ({}, ["labels.n"]),
            ({"a": ""}, ["labels.a"]),
            ({"only": "this", "empty": ""}, ["labels"]),
            ({"all": "new"}, []),
            ({}, ["size"]),
            ({}, ["labels.x", "digest"]),
            ({"k": "v" * 5000}, []),
            ({}, []),
        ):
            request = api.UpdateRequest(
                info=api.Info(digest=digest(b"7"), labels=labels), update_mask=FieldMask(paths=paths) if paths else None
            )
            changed = await client.outcome(client.content, "update", request)
            seen.append(changed if isinstance(changed, str) else dict(changed.info.labels))
        results.append(seen)
    assert results[0] == results[1]
    assert [len(page) for page in results[0][0]] == [100, 100, 50]


async def test_leases_as_containerd(ours: Client, theirs: Client) -> None:
    results = []
    for client in (ours, theirs):
        await client.leases.create(leases_pb2.CreateRequest(id="l"), metadata=client.metadata())

        async def held(client: Client = client) -> list[tuple[str, str]]:
            request = leases_pb2.ListResourcesRequest(id="l")
            found = await client.leases.list_resources(request, metadata=client.metadata())
            return sorted((each.type, each.id) for each in found.resources)

        seen: list[Any] = [await write(client, message(WRITE, ref="r", data=A), lease="l"), await held()]
        seen += [await write(client, message(COMMIT, ref="r", offset=100), lease="l"), await held()]
        seen += [await write(client, message(COMMIT, ref="r", data=B)), await held()]
        # Told that it exists, the caller's lease keeps it all the same.
        seen += [await write(client, message(STAT, ref="r2", expected=digest(B)), lease="l"), await held()]
        seen += [await write(client, message(WRITE, ref="r3", data=A), lease="l"), await held()]
        await client.outcome(client.content, "delete", api.DeleteContentRequest(digest=digest(A)), lease="l")
        seen.append(await held())
        await client.outcome(client.content, "abort", api.AbortRequest(ref="r3"), lease="l")
        seen.append(await held())
        results.append(seen)
    assert results[0] == results[1]


async def test_a_ref_is_locked_while_its_stream_is_open(ours: Client, theirs: Client) -> None:
    for client in (ours, theirs):
        go_on = asyncio.Event()

        async def slow(go_on: asyncio.Event = go_on) -> AsyncIterator[api.WriteContentRequest]:
            yield message(WRITE, ref="r", data=A)
            await go_on.wait()

        stream = client.content.write(slow(), metadata=client.metadata())
        await anext(stream)
        refused = client.content.write(requests([message(STAT, ref="r")]), metadata=client.metadata())
        with pytest.raises(Unavailable, match=r"ref .* locked for"):
            await anext(refused)
        assert await write(client, message(STAT, ref="r"), namespace=client.new_namespace())
        go_on.set()
        async for _ in stream:
            pass
        resumed = await write(client, message(STAT, ref="r"))
        assert resumed[0][1] == 100


async def test_a_cancelled_stream_gives_its_lock_back(ours: Client) -> None:
    async def endless() -> AsyncIterator[api.WriteContentRequest]:
        yield message(WRITE, ref="r", data=A * 10000)
        await asyncio.Event().wait()

    async def read() -> None:
        async for _ in ours.content.write(endless(), metadata=ours.metadata()):
            pass

    task = asyncio.create_task(read())
    while await status(ours, "r") == "NotFound":
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await write(ours, message(STAT, ref="r"))
    assert again[0][1] in (0, 1_000_000)


async def test_a_second_writer_that_waits_gets_the_lock(stores: Stores) -> None:
    first = await stores.content.writer("n", "r")
    waiting = asyncio.create_task(stores.content.writer("n", "r"))
    await asyncio.sleep(0.01)
    await first.write(A)
    first.close()
    async with await waiting as second:
        assert second.offset == 100


async def test_ingests_are_listed_and_end(ours: Client, stores: Stores) -> None:
    await write(ours, message(WRITE, ref="one", data=A))
    await write(ours, message(STAT, ref="two/with:any thing", total=7, expected=digest(B)))
    for filters, refs in (
        ([], ["one", "two/with:any thing"]),
        ([""], ["one", "two/with:any thing"]),
        (["ref==one"], ["one"]),
        (['ref~="^two"'], ["two/with:any thing"]),
    ):
        found = await ours.content.list_statuses(api.ListStatusesRequest(filters=filters), metadata=ours.metadata())
        assert [each.ref for each in found.statuses] == refs
    found = await ours.content.list_statuses(api.ListStatusesRequest(), metadata=ours.metadata())
    assert (found.statuses[1].total, found.statuses[1].expected) == (7, digest(B))
    await ours.content.abort(api.AbortRequest(ref="one"), metadata=ours.metadata())
    assert await status(ours, "one") == "NotFound"
    # 24 hours later, without a lease, the other goes too.
    await stores.database.write(lambda connection: connection.execute("UPDATE ingests SET expires_at = 1"))
    await stores.collector.collect()
    assert await status(ours, "two/with:any thing") == "NotFound"
    assert os.listdir(stores.directory / "content/ingest") == []


async def test_a_leased_ingest_goes_with_its_lease(ours: Client, stores: Stores) -> None:
    await ours.leases.create(leases_pb2.CreateRequest(id="l"), metadata=ours.metadata())
    await write(ours, message(WRITE, ref="r", data=A), lease="l")
    await stores.collector.collect()
    assert await status(ours, "r") == ("r", 100, 0)
    await ours.leases.delete(leases_pb2.DeleteRequest(id="l", sync=True), metadata=ours.metadata())
    assert await status(ours, "r") == "NotFound"


async def test_files_go_with_the_last_namespace(ours: Client, stores: Stores) -> None:
    other = ours.new_namespace()
    for namespace in (ours.namespace, other):
        await write(ours, message(COMMIT, ref="r", data=A), namespace=namespace)
    path = stores.directory / "content/blobs/sha256" / digest(A)[7:]
    for namespace, exists in ((ours.namespace, True), (other, False)):
        assert path.stat().st_mode & 0o777 == 0o444
        await ours.content.delete(api.DeleteContentRequest(digest=digest(A)), metadata=metadata_for(namespace))
        assert path.exists() == exists
    assert os.listdir(stores.directory / "content/removed") == []


async def test_what_a_crash_leaves_is_removed_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path) as stores:
        client = local_client(stores)
        await write(client, message(COMMIT, ref="r", data=A))
        await write(client, message(WRITE, ref="kept", data=B))
    content = tmp_path / "content"
    (content / "blobs/sha256" / digest(B)[7:]).write_bytes(B)
    (content / "ingest/999").mkdir()
    (content / "ingest/999/data").write_bytes(B)
    (content / "removed/x").write_bytes(B)
    async with opened(tmp_path) as stores:
        await stores.content.collect()
        assert stores.content.info("namespace-0", digest(A)).size == 100
        assert stores.content.status("namespace-0", "kept").offset == 50
    assert os.listdir(content / "blobs/sha256") == [digest(A)[7:]]
    assert len(os.listdir(content / "ingest")) == 1
    assert os.listdir(content / "removed") == []


async def test_a_crash_between_file_and_record_costs_nothing(tmp_path: Path) -> None:
    """The blob is linked from its ingest before the database knows it. The ingest goes on, and leaves the blob be."""
    async with opened(tmp_path) as stores:
        writer = await stores.content.writer("n", "r")
        await writer.write(A)
        await writer._data.publish()
        writer.close()
    async with opened(tmp_path) as stores:
        async with await stores.content.writer("n", "r") as writer:
            assert writer.offset == 100
            # Were the other name of the file written to, the blob of that digest would be another's bytes.
            await writer.truncate()
            await writer.write(B)
        blob = tmp_path / "content/blobs/sha256" / digest(A)[7:]
        assert blob.read_bytes() == A
        await stores.content.collect()
        assert not blob.exists()


async def test_aborted_under_the_writer(stores: Stores) -> None:
    async with await stores.content.writer("n", "r") as writer:
        await writer.write(A)
        await stores.content.abort("n", "r")
        with pytest.raises(NotFound):
            await writer.commit()
    assert os.listdir(stores.directory / "content/blobs/sha256") == []
    assert os.listdir(stores.directory / "content/ingest") == []


async def test_commit_and_deletion_of_one_digest_at_once(stores: Stores) -> None:
    """Whoever comes first, what a namespace has can be read."""

    async def make(namespace: str) -> None:
        for number in range(15):
            async with await stores.content.writer(namespace, f"r{number}") as writer:
                await writer.write(A)
                try:
                    await writer.commit()
                except AlreadyExists:
                    continue
            fd, _ = stores.content.open(namespace, digest(A))
            assert os.read(fd, 200) == A
            os.close(fd)
            await stores.content.delete(namespace, digest(A))

    async with asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(make(f"n{number}"))
    assert os.listdir(stores.directory / "content/blobs/sha256") == []


async def test_a_shared_blob_that_goes_before_the_commit(stores: Stores) -> None:
    """An ingest that counts on another namespace's blob keeps its file, for itself alone, as in containerd."""

    async def make(namespace: str) -> None:
        async with await stores.content.writer(namespace, "r") as writer:
            await writer.write(A)
            await writer.commit()

    files = stores.directory / "content/blobs/sha256"
    await make("one")
    async with await stores.content.writer("two", "r", expected=digest(A)) as writer:
        assert (writer.offset, writer.digest) == (100, digest(A))
        await stores.content.delete("one", digest(A))
        await stores.content.collect()
        assert not stores.content.has("one", digest(A)) and not stores.content.has("two", digest(A))
        await writer.commit()
    fd, size = stores.content.open("two", digest(A))
    assert (os.read(fd, 200), size) == (A, 100)
    os.close(fd)
    async with await stores.content.writer("three", "r", expected=digest(A)):
        await stores.content.delete("two", digest(A))
        assert len(os.listdir(files)) == 1
    await stores.content.abort("three", "r")
    assert os.listdir(files) == []
    # And when it is collected.
    await make("one")
    async with await stores.content.writer("two", "r", expected=digest(A)):
        await stores.content.delete("one", digest(A))
    await stores.database.write(lambda connection: connection.execute("UPDATE ingests SET expires_at = 1"))
    await stores.collector.collect()
    assert os.listdir(files) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
async def test_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    database = Database(tmp_path / "meta.db")
    try:
        store = ContentStore(database, str(small))
        async with await store.writer("n", "kept") as writer:
            await writer.write(A)
        async with await store.writer("n", "r") as writer:
            await writer.write(bytes(1 << 20))
            with pytest.raises(ResourceExhausted, match="no space left on device"):
                await writer.write(bytes(1 << 20))
        # What cannot be completed only takes up the space that is missing.
        with pytest.raises(NotFound):
            store.status("n", "r")
        assert store.status("n", "kept").offset == 100
        async with await store.writer("n", "again") as writer:
            await writer.write(bytes(1 << 20))
            await writer.commit()
    finally:
        database.close()
        subprocess.run(["umount", small], check=True)


async def test_a_ref_is_needed_and_any_will_do(stores: Stores) -> None:
    with pytest.raises(InvalidArgument):
        await stores.content.writer("n", "")
    for ref in ("../../etc/passwd", "tar-blobs/sha256/12", "with blanks : and /", "ü", "x" * 5000):
        async with await stores.content.writer("n", ref) as writer:
            await writer.write(A)
        assert stores.content.status("n", ref).offset == 100


async def test_the_loop_goes_on_while_much_is_written(stores: Stores) -> None:
    """Hashing and fsync are not the event loop's work: its longest pause is a fraction of the write's time."""
    longest = 0.0
    stop = asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not stop.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - began)

    watching = asyncio.create_task(watch())
    piece = os.urandom(1 << 20)
    began = time.perf_counter()
    async with await stores.content.writer("n", "r") as writer:
        for _ in range(100):
            await writer.write(piece)
        await writer.commit()
    took = time.perf_counter() - began
    stop.set()
    await watching
    assert longest < took / 3

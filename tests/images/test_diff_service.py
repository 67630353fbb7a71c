"""The Diff service: what it takes and refuses, what it leaves; and the same calls to Debian's containerd."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.harness.daemon import Daemon
from tests.images.trees import archive, entry
from tests.images.worker import bind
from tests.store.stores import Client, Stores, containerd_client, local_client, opened, requests
from wherry.api.services.content.v1 import content_pb2
from wherry.api.services.diff.v1 import diff_pb2 as api
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.types.types_pb2 import Descriptor
from wherry.api.types.types_pb2 import Mount as MountMessage
from wherry.api.wellknown_pb2 import Timestamp
from wherry.errors import NotFound, Unknown

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

OCI = "application/vnd.oci.image.layer.v1.tar"
DOCKER = "application/vnd.docker.image.rootfs.diff.tar"
LAYER = archive([entry("file", data=b"data" * 1000)])


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    directory = tmp_path / "stores"
    directory.mkdir()
    async with opened(directory) as stores:
        yield stores


@pytest.fixture
def ours(stores: Stores) -> Client:
    return local_client(stores)


@pytest.fixture
async def theirs(containerd: Daemon) -> AsyncIterator[Client]:
    client = containerd_client(containerd)
    client.namespace = containerd.namespace()
    yield client
    await client.channel.close()


def mounts(path: Path, *options: str) -> list[MountMessage]:
    mount = bind(path, *options)
    return [MountMessage(type=mount.type, source=mount.source, options=mount.options)]


async def push(client: Client, data: bytes) -> str:
    message = content_pb2.WriteContentRequest(
        action=content_pb2.COMMIT, ref=uuid.uuid4().hex, data=data, labels={"containerd.io/gc.root": "now"}
    )
    await client.stream(client.content, "write", requests([message]))
    return digest(data)


async def apply(client: Client, media_type: str, data: bytes, target: Path) -> Any:
    layer = Descriptor(media_type=media_type, digest=await push(client, data), size=len(data))
    answer = await client.outcome(client.diff, "apply", api.ApplyRequest(diff=layer, mounts=mounts(target)))
    if isinstance(answer, str):
        return answer
    return (answer.applied.media_type, answer.applied.digest, answer.applied.size, sorted(os.listdir(target)))


CASES = {
    "OCI": (OCI, LAYER),
    "OCI gzip": (OCI + "+gzip", gzip.compress(LAYER)),
    "OCI zstd": (OCI + "+zstd", zstandard.compress(LAYER)),
    "gzip by name, zstd in truth": (OCI + "+gzip", zstandard.compress(LAYER)),
    "gzip by name, plain in truth": (OCI + "+gzip", LAYER),
    "Docker gzip": (DOCKER + ".gzip", gzip.compress(LAYER)),
    "Docker, by name not compressed": (DOCKER, gzip.compress(LAYER)),
    "foreign": (DOCKER.replace("diff", "foreign.diff") + ".gzip", gzip.compress(LAYER)),
    "not distributable": (OCI.replace("v1", "nondistributable.v1") + "+gzip", gzip.compress(LAYER)),
    "padding": (OCI, LAYER + bytes(10240)),
    "nothing at all": (OCI, b""),
    "no layer": ("application/vnd.oci.image.config.v1+json", LAYER),
    "unknown": ("application/x-tar", LAYER),
    "empty type": ("", LAYER),
    "encrypted": (OCI + "+gzip+encrypted", LAYER),
}


@pytest.mark.parametrize("name", list(CASES))
async def test_media_types_as_containerd(name: str, ours: Client, theirs: Client, tmp_path: Path) -> None:
    results = []
    for number, client in enumerate((ours, theirs)):
        target = tmp_path / f"target-{number}"
        target.mkdir()
        results.append(await apply(client, *CASES[name], target))
    assert results[0] == results[1]


async def test_errors_of_apply(ours: Client, tmp_path: Path) -> None:
    with pytest.raises(Unknown, match="no processor for media-type"):
        await ours.diff.apply(api.ApplyRequest(diff=Descriptor(media_type="x")), metadata=ours.metadata())
    layer = Descriptor(media_type=OCI, digest=digest(b"absent"))
    with pytest.raises(NotFound):
        await ours.diff.apply(api.ApplyRequest(diff=layer, mounts=mounts(tmp_path)), metadata=ours.metadata())
    assert await apply(ours, OCI, b"damaged" * 1000, tmp_path) == "InvalidArgument"


@pytest.mark.parametrize("base", [OCI, OCI + "+gzip", OCI + "+zstd", DOCKER + ".gzip"])
async def test_encrypted_layers_are_refused_by_name(base: str, ours: Client) -> None:
    layer = Descriptor(media_type=f"{base}+encrypted", digest=digest(LAYER))
    with pytest.raises(Unknown, match=f"{re.escape(base)}.encrypted: no processor.*wherry has no decoder"):
        await ours.diff.apply(api.ApplyRequest(diff=layer), metadata=ours.metadata())


async def test_diffs_types_and_labels_as_containerd(ours: Client, theirs: Client, tmp_path: Path) -> None:
    left, right = tmp_path / "left", tmp_path / "right"
    left.mkdir()
    right.mkdir()
    (right / "file").write_bytes(b"x")
    os.utime(right / "file", (1_500_000_000, 1_500_000_000))
    results = []
    for client in (ours, theirs):
        await client.leases.create(leases_pb2.CreateRequest(id="l"), metadata=client.metadata())
        seen: list[Any] = []
        for media_type in ("", OCI, OCI + "+gzip", DOCKER, DOCKER + ".gzip", "x", OCI + "+xz"):
            request = api.DiffRequest(
                left=mounts(left, "ro"), right=mounts(right, "ro"), media_type=media_type, labels={"a": "b"}
            )
            answer = await client.outcome(client.diff, "diff", request, lease="l")
            if isinstance(answer, str):
                seen.append(answer)
                continue
            info = await client.content.info(
                content_pb2.InfoRequest(digest=answer.diff.digest), metadata=client.metadata()
            )
            held = await client.leases.list_resources(
                leases_pb2.ListResourcesRequest(id="l"), metadata=client.metadata()
            )
            assert ("content", answer.diff.digest) in {(each.type, each.id) for each in held.resources}
            assert info.info.size == answer.diff.size
            seen.append((answer.diff.media_type, sorted(info.info.labels)))
        statuses = await client.content.list_statuses(content_pb2.ListStatusesRequest(), metadata=client.metadata())
        seen.append(len(statuses.statuses))
        results.append(seen)
    assert results[0] == results[1]


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[tuple[list[MountMessage], list[MountMessage]]]:
    left, right = tmp_path / "left", tmp_path / "right"
    left.mkdir()
    right.mkdir()
    (right / "file").write_bytes(os.urandom(100_000))
    yield mounts(left, "ro"), mounts(right, "ro")


Trees = tuple[list[MountMessage], list[MountMessage]]


async def test_a_layer_that_exists_gets_its_label(ours: Client, trees: Trees) -> None:
    left, right = trees
    request = api.DiffRequest(left=left, right=right)
    first = await ours.diff.diff(request, metadata=ours.metadata())
    info = content_pb2.Info(digest=first.diff.digest)
    await ours.content.update(content_pb2.UpdateRequest(info=info), metadata=ours.metadata())
    second = await ours.diff.diff(request, metadata=ours.metadata())
    assert second == first
    found = await ours.content.info(content_pb2.InfoRequest(digest=first.diff.digest), metadata=ours.metadata())
    assert list(found.info.labels) == ["containerd.io/uncompressed"]
    zstd = await ours.diff.diff(
        api.DiffRequest(left=left, right=right, media_type=OCI + "+zstd"), metadata=ours.metadata()
    )
    other = await ours.content.info(content_pb2.InfoRequest(digest=zstd.diff.digest), metadata=ours.metadata())
    assert other.info.labels == found.info.labels


async def test_a_ref_is_started_again(ours: Client, trees: Trees) -> None:
    left, right = trees
    started = content_pb2.WriteContentRequest(action=content_pb2.WRITE, ref="r", data=b"rubbish")
    await ours.stream(ours.content, "write", requests([started]))
    made = await ours.diff.diff(api.DiffRequest(left=left, right=right, ref="r"), metadata=ours.metadata())
    read = await ours.stream(ours.content, "read", content_pb2.ReadContentRequest(digest=made.diff.digest))
    layer = b"".join(response.data for response in read)
    assert digest(layer) == made.diff.digest
    assert b"file" in gzip.decompress(layer)


async def test_times_are_clamped(ours: Client, trees: Trees) -> None:
    left, right = trees
    request = api.DiffRequest(left=left, right=right, source_date_epoch=Timestamp(seconds=1000))
    first = await ours.diff.diff(request, metadata=ours.metadata())
    os.utime(Path(right[0].source) / "file", (5000, 5000))
    assert await ours.diff.diff(request, metadata=ours.metadata()) == first


async def test_a_failed_diff_leaves_no_ingest(ours: Client, stores: Stores, trees: Trees, tmp_path: Path) -> None:
    left, _ = trees
    (tmp_path / "right/.wh.x").touch()
    answer = await ours.outcome(ours.diff, "diff", api.DiffRequest(left=left, right=mounts(tmp_path / "right")))
    assert answer == "FailedPrecondition"
    answer = await ours.outcome(ours.diff, "diff", api.DiffRequest(left=left, right=mounts(tmp_path / "absent")))
    assert answer == "Unknown"
    assert stores.content.statuses(ours.namespace) == []
    assert os.listdir(stores.directory / "content/ingest") == []


async def test_a_cancelled_apply_is_over(ours: Client, tmp_path: Path) -> None:
    """When the call has ended, so has the worker: nothing is written any more into what the client then removes."""
    many = archive([entry(f"d{number % 50}/file-{number}", data=b"x" * 2000) for number in range(20_000)])
    layer = Descriptor(media_type=OCI, digest=await push(ours, many), size=len(many))
    target = tmp_path / "target"
    target.mkdir()
    request = api.ApplyRequest(diff=layer, mounts=mounts(target))
    task = asyncio.create_task(ours.diff.apply(request, metadata=ours.metadata()))
    while not os.listdir(target):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    count = sum(len(files) for _, _, files in os.walk(target))
    assert count < 20_000
    await asyncio.sleep(0.1)
    assert sum(len(files) for _, _, files in os.walk(target)) == count

"""Import over every other kind of channel, and onto a disk that is full."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.client.image_archives import Archives, LayoutBuilder
from tests.client.places import Place
from tests.harness.command import run
from tests.harness.daemon import Containerd, Daemon, Wherryd
from wherry.client.images import descriptor_of
from wherry.client.rootfs_image import RootfsOptions
from wherry.errors import ResourceExhausted
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.grpc_channel import BlockingGrpcChannel, GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel


@pytest.fixture(params=["gRPC", "ttrpc"])
async def place(request: pytest.FixtureRequest, wherryd: Daemon) -> AsyncIterator[Place]:
    """A namespace in wherryd, over its channels for event loops."""
    if request.param == "gRPC":
        channel: GrpcChannel | TtrpcChannel = GrpcChannel(wherryd.address)
    else:
        channel = await TtrpcChannel.connect(wherryd.address + ".ttrpc")
    yield Place(channel, wherryd.namespace(), wherryd)
    await channel.close()


async def test_over_channels_of_an_event_loop(archives: Archives, place: Place) -> None:
    data = archives.paths["as docker save 25"].read_bytes()
    await asyncio.gather(*(place.images.import_archive(io.BytesIO(data)) for _ in range(3)))
    (image,) = await place.images.list()
    exported = io.BytesIO()
    await place.images.export([image.name], exported)
    assert descriptor_of(image).digest.removeprefix("sha256:").encode() in exported.getvalue()
    assert await place.content.statuses() == []


@pytest.mark.parametrize("kind", ["ttrpc", "gRPC"])
def test_without_an_event_loop_of_ones_own(kind: str, archives: Archives, wherryd: Daemon) -> None:
    """What the command line does."""
    channel: BlockingTtrpcChannel | BlockingGrpcChannel
    if kind == "gRPC":
        channel = BlockingGrpcChannel.connect(wherryd.address)
    else:
        channel = BlockingTtrpcChannel.connect(wherryd.address + ".ttrpc")
    place = Place(channel, wherryd.namespace(), wherryd)
    with open(archives.paths["skopeo docker-archive"], "rb") as file:
        (image,) = channel.run(place.images.import_archive(file))
    destination = io.BytesIO()
    channel.run(place.images.export([image.name], destination))
    assert len(destination.getvalue()) > image.target.size
    channel.run(channel.close())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk]).check()
    yield disk
    run(["umount", disk]).check()


@pytest.mark.parametrize("kind", [Containerd, Wherryd])
async def test_a_full_disk(
    kind: type[Daemon], small_disk: Path, builder: LayoutBuilder, start_daemon: Callable[[Daemon], Daemon]
) -> None:
    daemon = kind()
    daemon.root = small_disk
    start_daemon(daemon)
    channel = GrpcChannel(daemon.address)
    place = Place(channel, daemon.namespace(), daemon)
    random = os.urandom(8 << 20)
    layer = builder.blob(random, "application/vnd.oci.image.layer.v1.tar")
    archive = builder.finish([builder.manifest([layer])])
    with (
        open(archive, "rb") as file,
        pytest.raises(ResourceExhausted, match=f"blob blobs/{layer['digest'].replace(':', '/')}: .*no space left"),
    ):
        await place.images.import_archive(file)
    assert await place.half_made() == []
    header = builder.layer("small")
    rootfs = builder.path(header).read_bytes()[:-1024] + random
    with pytest.raises(ResourceExhausted, match=r"layer: .*no space left"):
        await place.images.import_rootfs(io.BytesIO(rootfs), "x", RootfsOptions())
    assert await place.half_made() == []
    # There is room again for what fits.
    builder.path(layer).unlink()
    with open(builder.finish([builder.manifest([header])]), "rb") as file:
        (small,) = await place.images.import_archive(file)
    assert small.name == "x/y:1"
    await channel.close()

"""A store of 5,000 images and 50,000 blobs: listing images, a collection that finds nothing, creates beside it.

    python bench/store_scale.py [--images 5000] [--peer 0]

The store is made below wherryd, with SQL and files, before it starts. With --peer so many images are also made in
Debian's containerd, through its API (some thousand blobs a minute), and `ctr images ls` and its collection are timed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.images.v1 import images_pb2
from wherry.api.types.types_pb2 import Descriptor
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.client.client import Client
from wherry.oci.manifest import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from wherry.rpc.channel import Stub
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.rpc.ttrpc_channel import TtrpcChannel
from wherry.store.database import Database

BIN = Path(sys.executable).parent
NAMESPACE = "scale"
#: Of each image: a manifest, a config, and so many layers.
LAYERS = 8
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blobs(number: int) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Yield an image's blobs with their labels, the manifest last."""
    layers = [f"layer {layer} of image {number}".encode() for layer in range(LAYERS)]
    source = {"containerd.io/distribution.source.registry.example": f"library/image-{number}"}
    for layer in layers:
        yield layer, {**source, "containerd.io/uncompressed": digest(layer + b".tar")}
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer + b".tar") for layer in layers]},
            "history": [{"created_by": f"RUN step {layer} of {number}"} for layer in range(LAYERS)],
        }
    ).encode()
    yield config, source
    descriptors = [{"mediaType": OCI_LAYER, "digest": digest(layer), "size": len(layer)} for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest(config), "size": len(config)},
        "layers": descriptors,
    }
    labels = {f"containerd.io/gc.ref.content.l.{n}": digest(layer) for n, layer in enumerate(layers)}
    yield json.dumps(manifest).encode(), {**source, **labels, "containerd.io/gc.ref.content.config": digest(config)}


def name(number: int) -> str:
    return f"registry.example/library/image-{number}:latest"


def make_store(root: Path, images: int) -> None:
    """Make the store of a wherryd that has not started yet."""
    directory = root / "io.containerd.content.v1.content/blobs/sha256"
    directory.mkdir(parents=True)

    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO namespaces (name) VALUES (?)", (NAMESPACE,))
        now = time.time_ns()
        for number in range(images):
            data = b""
            for data, labels in blobs(number):
                (directory / digest(data)[7:]).write_bytes(data)
                row = NAMESPACE, digest(data), len(data), json.dumps(labels), now, now
                connection.execute("INSERT INTO content VALUES (?, ?, ?, ?, ?, ?)", row)
            target = OCI_MANIFEST, digest(data), len(data), "{}", now, now
            connection.execute(
                "INSERT INTO images VALUES (?, ?, '{}', ?, ?, ?, ?, ?, ?)", (NAMESPACE, name(number), *target)
            )

    async def write() -> None:
        database = Database(root / "meta.db")
        await database.write(fill)
        database.close()

    asyncio.run(write())


@contextmanager
def running(command: list[str], socket: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT) as process:
        try:
            while subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False).returncode:
                if process.poll() is not None:
                    raise SystemExit(f"{command[0]} did not start")
                time.sleep(0.1)
            yield
        finally:
            process.send_signal(signal.SIGTERM)


async def collect(client: Client) -> float:
    """Return how many seconds a collection takes: the synchronous deletion of a lease."""
    began = 0.0
    async with client.leases.hold() as lease:
        began = time.perf_counter()
        await client.leases.delete(lease.id, sync=True)
    return time.perf_counter() - began


async def create_all(client: Client, go_on: Callable[[], bool]) -> dict[str, list[float]]:
    """Create a container, an image and a blob, one after the other, for as long as told; return the seconds of each."""
    took: dict[str, list[float]] = {"container": [], "image": [], "content": []}
    images = Stub(client.channel, images_pb2.DESCRIPTOR.services_by_name["Images"])

    async def timed(what: str, work: Awaitable[Any]) -> None:
        began = time.perf_counter()
        await work
        took[what].append(time.perf_counter() - began)

    while go_on():
        unique = os.urandom(8).hex()
        container = containers_pb2.Container(
            id=unique,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
            spec=AnyMessage(type_url="x", value=b"{}"),
        )
        request = containers_pb2.CreateContainerRequest(container=container)
        await timed("container", client.containers.create(request, metadata=client.metadata))
        image = images_pb2.Image(name=unique, target=Descriptor(media_type="x", digest=digest(b""), size=1))
        await timed("image", images.create(images_pb2.CreateImageRequest(image=image), metadata=client.metadata))
        await timed("content", client.content.write(unique, [unique.encode()], labels={"containerd.io/gc.root": "1"}))
        await asyncio.sleep(0.002)
    return took


async def measure(client: Client, rounds: int) -> tuple[list[float], dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of collections alone, of creates alone, and of creates beside collections."""
    collections = [await collect(client) for _ in range(rounds)]
    deadline = time.monotonic() + 4
    alone = await create_all(client, lambda: time.monotonic() < deadline)

    async def collect_some() -> None:
        for _ in range(rounds):
            await collect(client)

    collecting = asyncio.create_task(collect_some())
    beside = await create_all(client, lambda: not collecting.done())
    await collecting
    return collections, alone, beside


def listing(command: list[str]) -> float:
    """Return the median of the seconds that a command takes."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def row(what: str, value: str, target: str) -> None:
    print(f"| {what} | {value} | {target} |")


def show(side: str, measured: tuple[list[float], dict[str, list[float]], dict[str, list[float]]]) -> None:
    collections, alone, beside = measured
    row(f"{side}: collection that finds nothing", f"{statistics.median(collections):.2f} s", "≤ 2 s")
    for what in alone:
        usual, then = statistics.median(alone[what]), statistics.median(beside[what])
        worst = max(beside[what]) * 1000
        text = f"{usual * 1000:.2f} → {then * 1000:.2f} ms (worst {worst:.0f} ms, n={len(beside[what])})"
        row(f"{side}: {what} created, alone → beside collections", f"{text}: {then / usual:.2f}", "≤ 1.2")


async def ours(socket: str) -> None:
    client = Client(await TtrpcChannel.connect(socket + ".ttrpc"), NAMESPACE)
    show("wherryd", await measure(client, 6))
    await client.channel.close()


async def theirs(socket: str, images: int) -> None:
    client = Client(GrpcChannel(socket), NAMESPACE)
    stub = Stub(client.channel, images_pb2.DESCRIPTOR.services_by_name["Images"])
    async with client.leases.hold() as lease:
        held = Client(client.channel, NAMESPACE, lease.id)
        for number in range(images):
            data = b""
            for data, labels in blobs(number):
                await held.content.write(digest(data), [data], labels=labels)
            target = Descriptor(media_type=OCI_MANIFEST, digest=digest(data), size=len(data))
            request = images_pb2.CreateImageRequest(image=images_pb2.Image(name=name(number), target=target))
            await stub.create(request, metadata=client.metadata)
    show(f"containerd, {images} images", await measure(client, 6))
    await client.channel.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--peer", type=int, default=0)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.2f}\n\n| figure | measured | to reach |\n|---|---|---|")
    with ExitStack() as undo:
        place = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ws", ignore_cleanup_errors=True)))
        make_store(place / "r", options.images)
        socket = f"{place}/s/wherry.sock"
        began = time.perf_counter()
        undo.enter_context(running([str(BIN / "wherryd"), "--root", f"{place}/r", "--state", f"{place}/s"], socket))
        row("wherryd: start", f"{time.perf_counter() - began:.2f} s", "")
        wherry = [str(BIN / "wherry"), "-a", socket, "-n", NAMESPACE, "image", "ls"]
        row(f"wherry image ls, {options.images} images", f"{listing(wherry):.2f} s", "≤ 0.5 s")
        for flag in ("-q", "--json"):
            row(f"wherry image ls {flag}", f"{listing([*wherry, flag]):.2f} s", "")
        ctr = ["ctr", "-n", NAMESPACE, "images", "ls"]
        row("ctr images ls, of wherryd", f"{listing([ctr[0], '-a', socket, *ctr[1:]]):.2f} s", "")
        asyncio.run(ours(socket))
        if options.peer:
            (place / "c.toml").write_text(_CONTAINERD.format(place=place))
            other = f"{place}/c.sock"
            undo.enter_context(running(["containerd", "-c", f"{place}/c.toml"], other))
            asyncio.run(theirs(other, options.peer))
            row(f"ctr images ls, {options.peer} images", f"{listing([ctr[0], '-a', other, *ctr[1:]]):.2f} s", "")
            row(
                f"wherry image ls, of containerd's {options.peer}",
                f"{listing([wherry[0], '-a', other, *wherry[3:]]):.2f} s",
                "",
            )


_CONTAINERD = """
version = 2
root = "{place}/croot"
state = "{place}/cstate"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{place}/c.sock"
[ttrpc]
address = "{place}/c.sock.ttrpc"
"""

if __name__ == "__main__":
    main()

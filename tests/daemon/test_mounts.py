"""containerd.services.mounts.v1: mounts that the daemon makes for clients that cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd
from wherry.api.services.containers.v1 import containers_pb2
from wherry.api.services.leases.v1 import leases_pb2
from wherry.api.services.mounts.v1 import mounts_pb2 as api
from wherry.api.types.types_pb2 import ActivationInfo, Mount
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.api.wellknown_pb2 import FieldMask
from wherry.daemon.mounts import template
from wherry.errors import (
    AlreadyExists,
    Error,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unknown,
)
from wherry.linux import loop
from wherry.linux import mount as linux
from wherry.rpc.channel import Stub
from wherry.rpc.context import metadata_for
from wherry.rpc.grpc_channel import GrpcChannel
from wherry.store.mounts import ActiveMount

_PLACE = "io.containerd.mount-manager.v1.bolt/t"


class Client:
    """The mounts of one namespace."""

    def __init__(self, daemon: Wherryd, namespace: str) -> None:
        self.daemon = daemon
        self.namespace = namespace
        self.channel = GrpcChannel(daemon.address)
        self.targets = daemon.state / _PLACE

    def stub(self, module: Any, service: str) -> Stub:
        return Stub(self.channel, module.DESCRIPTOR.services_by_name[service])

    async def call(self, method: str, request: Any, lease: str = "") -> Any:
        stub = self.stub(api, "Mounts")
        return await getattr(stub, method)(request, metadata=metadata_for(self.namespace, lease))

    async def activate(
        self,
        name: str,
        *mounts: Mount,
        temporary: bool = False,
        labels: dict[str, str] | None = None,
        lease: str = "",
    ) -> ActivationInfo:
        request = api.ActivateRequest(name=name, mounts=mounts, temporary=temporary, labels=labels)
        response: api.ActivateResponse = await self.call("activate", request, lease)
        return response.info

    async def deactivate(self, name: str) -> None:
        await self.call("deactivate", api.DeactivateRequest(name=name))

    async def info(self, name: str) -> ActivationInfo:
        response: api.InfoResponse = await self.call("info", api.InfoRequest(name=name))
        return response.info

    async def names(self, *filters: str) -> list[str]:
        stub = self.stub(api, "Mounts")
        request = api.ListRequest(filters=filters)
        return [each.info.name async for each in stub.list(request, metadata=metadata_for(self.namespace))]

    def mounted(self) -> list[str]:
        """The mount points that there are for activations."""
        return [line.split()[4] for line in leaks.mounts() if f"{self.targets}/" in line]

    def left(self) -> list[str]:
        return self.mounted() + [str(path) for path in leaks.entries(self.targets)]


@pytest.fixture
async def client(wherryd: Wherryd) -> AsyncIterator[Client]:
    made = Client(wherryd, wherryd.namespace())
    yield made
    for name in await made.names():
        await made.deactivate(name)
    await made.channel.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file with an ext4 file system that holds a file `hello`."""
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("needs mkfs.ext4 and loop devices")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_text("world\n")
    path = tmp_path / "disk.img"
    subprocess.run(["mkfs.ext4", "-q", "-d", tree, path, "4M"], check=True)
    return path


@pytest.fixture
def below_root(wherryd: Wherryd) -> Iterator[Path]:
    """A directory below the daemon's root, where mkdir/ and mkfs/ may make things."""
    path = wherryd.root / "test-mounts"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def bind(source: Path, *options: str) -> Mount:
    return Mount(type="bind", source=str(source), options=["rbind", *options])


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"never {what}"
        await asyncio.sleep(0.05)


async def test_what_a_client_can_mount_itself_is_not_implemented(client: Client, tmp_path: Path) -> None:
    """What clients of containerd 2.2 and later go on with as they are: every other error is their end."""
    overlay = Mount(type="overlay", source="overlay", options=["lowerdir=/a:/b"])
    for mounts in ((), (bind(tmp_path),), (overlay,), (bind(tmp_path), overlay), (Mount(type="odd/overlay"),)):
        with pytest.raises(Unimplemented, match=r"^not implemented$"):
            await client.activate("plain", *mounts)
    with pytest.raises(NotFound):
        await client.info("plain")
    assert client.left() == []


async def test_temporary_mounts_are_all_made(client: Client, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    info = await client.activate("temporary", bind(tmp_path, "ro"), temporary=True, labels={"a": "b"})
    (active,) = info.active
    assert active.mount.source == str(tmp_path) and active.mount.options == ["rbind", "ro"]
    assert abs(active.mounted_at.seconds - time.time()) < 60
    assert (Path(active.mount_point) / "file").read_text() == "here"
    assert [(each.type, each.source, list(each.options)) for each in info.system] == [
        ("bind", active.mount_point, ["rbind"])
    ]
    assert await client.info("temporary") == info
    assert client.mounted() == [active.mount_point]
    with pytest.raises(AlreadyExists, match=r'^mount "temporary": already exists$'):
        await client.activate("temporary", bind(tmp_path), temporary=True)
    await client.deactivate("temporary")
    assert client.left() == [] and (tmp_path / "file").exists()
    with pytest.raises(NotFound):
        await client.deactivate("temporary")
    with pytest.raises(NotFound):
        await client.info("temporary")


async def test_a_loop_device_that_the_client_mounts(client: Client, image: Path, tmp_path: Path) -> None:
    info = await client.activate(
        "disk",
        Mount(type="loop", source=str(image)),
        Mount(type="format/ext4", source="{{ mount 0 }}", options=["ro"]),
    )
    (active,) = info.active
    device = os.readlink(active.mount_point)
    assert loop.backing_file(device) == str(image)
    (system,) = info.system
    assert (system.type, system.source, list(system.options)) == ("ext4", active.mount_point, ["ro"])
    target = tmp_path / "target"
    target.mkdir()
    subprocess.run(["mount", "-t", "ext4", "-o", "ro", system.source, target], check=True)
    assert (target / "hello").read_text() == "world\n"
    subprocess.run(["umount", target], check=True)
    assert loop.backing_file(device) == str(image)  # unused, and there all the same
    await client.deactivate("disk")
    await until(lambda: loop.backing_file(device) != str(image), "detached")
    assert client.left() == []


async def test_a_loop_device_whose_file_is_gone(client: Client, image: Path) -> None:
    info = await client.activate("disk", Mount(type="loop", source=str(image)))
    device = os.readlink(info.active[0].mount_point)
    image.unlink()
    await client.deactivate("disk")
    await until(lambda: str(image) not in loop.backing_file(device), "detached")
    assert client.left() == []


async def test_a_target_stays_below_its_mount_point(client: Client, tmp_path: Path) -> None:
    for target in ("/", "../../.."):
        info = await client.activate(
            "up", Mount(type="bind", source=str(tmp_path), target=target, options=["bind"]), temporary=True
        )
        assert client.mounted() == [info.active[0].mount_point]
        await client.deactivate("up")
        assert client.left() == []


async def test_an_erofs_image(client: Client, tmp_path: Path) -> None:
    if shutil.which("mkfs.erofs") is None or "erofs" not in Path("/proc/filesystems").read_text():
        pytest.skip("needs mkfs.erofs and a kernel with EROFS")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_text("world\n")
    path = tmp_path / "layer.erofs"
    subprocess.run(["mkfs.erofs", "--quiet", path, tree], check=True)
    info = await client.activate(
        "erofs",
        Mount(type="erofs", source=str(path), options=["ro", "loop"]),
        Mount(type="format/overlay", source="overlay", options=["lowerdir={{ mount 0 }}:/"]),
    )
    point = Path(info.active[0].mount_point)
    assert (point / "hello").read_text() == "world\n" and list(info.system[0].options) == [f"lowerdir={point}:/"]
    await client.deactivate("erofs")
    assert client.left() == []


_ACTIVE = [ActiveMount(linux.Mount("bind", f"/source/{n}", [], f"target/{n}"), f"/mnt/{n}", 0) for n in range(3)]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", "plain"),
        ("{{ mount 0 }}", "/mnt/0"),
        ("{{mount 1}}/upper:{{ source 2 }}", "/mnt/1/upper:/source/2"),
        ("{{ target 1 }}", "target/1"),
        ("a {{- mount 0 -}} b", "a/mnt/0b"),
        ("lowerdir={{ overlay 0 2 }}", "lowerdir=/mnt/0:/mnt/1:/mnt/2"),
        ("lowerdir={{ overlay 2 1 }}", "lowerdir=/mnt/2:/mnt/1"),
        ("{{ overlay 1 1 }}", "/mnt/1"),
        ("}} {", "}} {"),
    ],
)
def test_templates(text: str, filled: str) -> None:
    assert template.fill(text, _ACTIVE) == filled


async def test_layers_below_an_overlay(client: Client, image: Path, tmp_path: Path) -> None:
    """As the erofs snapshotter has it: the last mount is put together from those before it."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "more").write_text("")
    info = await client.activate(
        "layers",
        Mount(type="loop", source=str(image), options=["ro"]),
        Mount(type="format/ext4", source="{{mount 0}}", options=["ro"]),
        bind(other),
        Mount(type="format/overlay", source="overlay", options=["ro", "lowerdir={{ overlay 1 2 }}"]),
    )
    points = [each.mount_point for each in info.active]
    assert len(points) == 3 and client.mounted() == points[1:]
    (system,) = info.system
    assert (system.type, list(system.options)) == ("overlay", ["ro", f"lowerdir={points[1]}:{points[2]}"])
    await client.deactivate("layers")
    assert client.left() == []


async def test_what_only_has_to_be_transformed(client: Client, below_root: Path) -> None:
    upper = below_root / "upper"
    info = await client.activate(
        "transformed",
        Mount(
            type="mkdir/overlay",
            source="overlay",
            options=[f"X-containerd.mkdir.path={upper}:0751:7:8", f"upperdir={upper}"],
        ),
    )
    assert not info.active
    assert [(each.type, list(each.options)) for each in info.system] == [("overlay", [f"upperdir={upper}"])]
    found = upper.stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o751, 7, 8)


async def test_a_disk_made_on_the_way(client: Client, below_root: Path) -> None:
    """The example of containerd's documentation, with its templates in their places."""
    if shutil.which("mkfs.ext4") is None or not Path("/dev/loop-control").exists():
        pytest.skip("needs mkfs.ext4 and loop devices")
    disk = below_root / "rw.img"
    lower = below_root / "lower"
    lower.mkdir()
    mounts = [
        Mount(
            type="mkfs/loop",
            source=str(disk),
            options=[
                "X-containerd.mkfs.size=8MiB",
                "X-containerd.mkfs.fs=ext4",
                "X-containerd.mkfs.uuid=550e8400-e29b-41d4-a716-446655440000",
            ],
        ),
        Mount(type="format/ext4", source="{{ mount 0 }}"),
        Mount(
            type="format/mkdir/overlay",
            source="overlay",
            options=[
                "X-containerd.mkdir.path={{ mount 1 }}/upper:0755",
                "X-containerd.mkdir.path={{ mount 1 }}/work:0755",
                f"lowerdir={lower}",
                "upperdir={{ mount 1 }}/upper",
                "workdir={{ mount 1 }}/work",
            ],
        ),
    ]
    info = await client.activate("disk", *mounts)
    assert disk.stat().st_size == 8 << 20
    point = Path(info.active[1].mount_point)
    assert (point / "upper").is_dir() and (point / "work").is_dir()
    (point / "upper/kept").write_text("kept")
    assert list(info.system[0].options) == [f"lowerdir={lower}", f"upperdir={point}/upper", f"workdir={point}/work"]
    await client.deactivate("disk")
    assert client.left() == []
    again = await client.activate("disk", *mounts)  # an image that is there is used as it is
    assert (Path(again.active[1].mount_point) / "upper/kept").read_text() == "kept"


async def test_links_lead_nowhere(client: Client, below_root: Path, tmp_path: Path) -> None:
    """What is made below the daemon's root stays there, whatever links a container's layer holds."""
    (below_root / "out").symlink_to(tmp_path)
    (below_root / "there").symlink_to(tmp_path / "made")
    path = "X-containerd.mkdir.path="
    for mount in (
        Mount(type="mkdir/bind", options=[f"{path}{below_root}/out/made"]),
        Mount(type="mkdir/bind", options=[f"{path}{below_root}/there"]),
        Mount(type="mkfs/loop", source=f"{below_root}/out/made", options=[_SIZE]),
        Mount(type="mkfs/loop", source=f"{below_root}/there", options=[_SIZE]),
    ):
        with pytest.raises(Error):
            await client.activate("links", mount)
    assert list(tmp_path.iterdir()) == [] and client.left() == []


_SIZE = "X-containerd.mkfs.size=1MiB"


@pytest.mark.parametrize(
    ("mounts", "kind", "text"),
    [
        ([("format/overlay", "{{ mount 0 }}", [])], InvalidArgument, "index out of bounds: 0, has 0 active mounts"),
        ([("format/overlay", "", ["{{ overlay 0 3 }}"])], InvalidArgument, "invalid range: 0-3, has 0 active mounts"),
        ([("format/overlay", "{{ mount }}", [])], InvalidArgument, "wrong number of args for mount: want 1 got 0"),
        ([("format/overlay", "{{ env 0 }}", [])], InvalidArgument, 'function "env" not defined'),
        ([("format/overlay", "{{ mount x }}", [])], InvalidArgument, "whole numbers"),
        ([("format/overlay", "{{ mount 0", [])], InvalidArgument, "unclosed action"),
        ([("mkdir/bind", "", ["X-containerd.mkdir.mode=1"])], InvalidArgument, "invalid mkdir option"),
        ([("mkdir/bind", "", ["X-containerd.mkdir.path=/a:9"])], InvalidArgument, "invalid mode 9"),
        ([("mkdir/bind", "", ["X-containerd.mkdir.path=/a:700:x:0"])], InvalidArgument, 'invalid uid "x"'),
        ([("mkdir/bind", "", ["X-containerd.mkdir.path=/etc/no"])], Unimplemented, 'no root "/etc/no" configured'),
        ([("mkdir/bind", "", ["X-containerd.mkdir.path={root}/../no"])], Unimplemented, "no root"),
        ([("mkdir/bind", "", ["X-containerd.mkdir.path={root}/meta.db"])], FailedPrecondition, "not a directory"),
        ([("mkfs/loop", "{root}/disk", [])], InvalidArgument, "mkfs requires mkfs.size option"),
        ([("mkfs/loop", "{root}/disk", [_SIZE, "X-containerd.mkfs.x=1"])], InvalidArgument, "unknown mount option x"),
        ([("mkfs/loop", "{root}/disk", ["X-containerd.mkfs.size=big"])], InvalidArgument, "invalid size: 'big'"),
        ([("mkfs/loop", "{root}/disk", [_SIZE, "X-containerd.mkfs.fs=vfat"])], InvalidArgument, "unsupported file"),
        ([("mkfs/loop", "{root}", [_SIZE])], Unimplemented, "no root"),
        ([("mkfs/loop", "/tmp/no", [_SIZE])], Unimplemented, "no root"),
        ([("mkfs/loop", "{state}", [_SIZE])], Unimplemented, "no root"),
        ([("loop", "/absent", [])], Unknown, "no such file or directory"),
        ([("bind", "/tmp", ["bind"]), ("loop", "/absent", [])], Unknown, "no such file or directory"),
        ([("erofs", "/absent", ["ro"])], Unknown, "mount failed"),
    ],
)
async def test_a_refusal_leaves_nothing(
    client: Client, mounts: list[tuple[str, str, list[str]]], kind: type[Error], text: str
) -> None:
    def placed(value: str) -> str:
        return value.replace("{root}", str(client.daemon.root)).replace("{state}", str(client.daemon.state))

    request = [Mount(type=t, source=placed(s), options=[placed(o) for o in options]) for t, s, options in mounts]
    with pytest.raises(kind) as failure:
        await client.activate("refused", *request)
    assert text in failure.value.message
    assert client.left() == [] and await client.names() == []
    assert not (client.daemon.root / "disk").exists()


async def test_names_and_leases(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        await client.activate("", bind(tmp_path), temporary=True)
    with pytest.raises(NotFound, match="lease does not exist"):
        await client.activate("held", bind(tmp_path), temporary=True, lease="absent")
    with pytest.raises(InvalidArgument, match="greater than maximum size"):
        await client.activate("long", bind(tmp_path), temporary=True, labels={"a": "x" * 5000})
    with pytest.raises(FailedPrecondition, match="namespace is required"):
        await client.stub(api, "Mounts").activate(api.ActivateRequest(name="a"))
    assert client.left() == []


async def test_list_and_update(client: Client, tmp_path: Path) -> None:
    for name, color in (("one", "red"), ("two", "green"), ("/a/path", "green")):
        await client.activate(name, bind(tmp_path), temporary=True, labels={"color": color})
    assert await client.names() == ["/a/path", "one", "two"]
    assert await client.names("labels.color==green") == ["/a/path", "two"]
    assert await client.names("name==one", "name==two") == ["one", "two"]
    with pytest.raises(InvalidArgument):
        await client.names("===")

    async def update(labels: dict[str, str], *paths: str) -> dict[str, str]:
        request = api.UpdateRequest(
            info=ActivationInfo(name="one", labels=labels), update_mask=FieldMask(paths=paths) if paths else None
        )
        response: api.UpdateResponse = await client.call("update", request)
        assert response.info == await client.info("one")
        return dict(response.info.labels)

    assert await update({"size": "big", "x": "y"}, "labels.size") == {"color": "red", "size": "big"}
    assert await update({"only": "this"}) == {"only": "this"}
    with pytest.raises(InvalidArgument, match="system"):
        await update({}, "system")
    with pytest.raises(NotFound):
        await client.call("update", api.UpdateRequest(info=ActivationInfo(name="absent")))
    other = Client(client.daemon, client.daemon.namespace())
    assert await other.names() == []
    await other.channel.close()


async def test_parallel_activations_of_one_name(client: Client, tmp_path: Path) -> None:
    outcomes = await asyncio.gather(
        *(client.activate("one", bind(tmp_path), temporary=True) for _ in range(8)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["ActivationInfo", *["AlreadyExists"] * 7]
    assert len(client.mounted()) == 1
    await asyncio.gather(*(client.activate(f"n{i}", bind(tmp_path), temporary=True) for i in range(8)))
    assert len(client.mounted()) == 9
    await asyncio.gather(*(client.deactivate(name) for name in await client.names()))
    assert client.left() == []


async def test_what_is_in_use_goes_later(client: Client, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    info = await client.activate("busy", bind(source), temporary=True)
    with open(f"{info.active[0].mount_point}/open", "w"):
        with pytest.raises(Unknown, match="busy"):
            await client.deactivate("busy")
        assert await client.names() == []
    await collect(client)
    assert client.left() == [] and (source / "open").exists()


async def collect(client: Client) -> None:
    """Have the daemon collect garbage, and wait for it."""
    leases = client.stub(leases_pb2, "Leases")
    metadata = metadata_for(client.namespace)
    await leases.create(leases_pb2.CreateRequest(id="collect"), metadata=metadata)
    await leases.delete(leases_pb2.DeleteRequest(id="collect", sync=True), metadata=metadata)


async def test_mounts_live_as_long_as_what_holds_them(client: Client, tmp_path: Path) -> None:
    metadata = metadata_for(client.namespace)
    leases = client.stub(leases_pb2, "Leases")
    containers = client.stub(containers_pb2, "Containers")
    await leases.create(leases_pb2.CreateRequest(id="lease"), metadata=metadata)
    for id, labels in (("named", {}), ("naming", {"containerd.io/gc.ref.mount.x": "by-label"})):
        record = containers_pb2.Container(
            id=id, labels=labels, runtime={"name": "io.containerd.runc.v2"}, spec=AnyMessage(type_url="x")
        )
        await containers.create(containers_pb2.CreateContainerRequest(container=record), metadata=metadata)
    mount = bind(tmp_path)
    await client.activate("by-lease", mount, temporary=True, lease="lease")
    await client.activate("by-label", mount, temporary=True, lease="lease")
    back = {"containerd.io/gc.bref.container/x": "named"}
    await client.activate("by-container", mount, temporary=True, labels=back)
    await client.activate("by-two", mount, temporary=True, labels={"containerd.io/gc.bref.container": "naming", **back})
    await client.activate(
        "by-nothing", mount, temporary=True, labels={"containerd.io/gc.bref.image": "absent", "containerd.io/x": "y"}
    )
    await collect(client)
    assert await client.names() == ["by-container", "by-label", "by-lease", "by-two"]
    await leases.delete(leases_pb2.DeleteRequest(id="lease", sync=True), metadata=metadata)
    assert await client.names() == ["by-container", "by-label", "by-two"]
    await containers.delete(containers_pb2.DeleteContainerRequest(id="named"), metadata=metadata)
    await collect(client)
    assert await client.names() == ["by-label", "by-two"]
    await containers.delete(containers_pb2.DeleteContainerRequest(id="naming"), metadata=metadata)
    await collect(client)
    assert await client.names() == [] and client.left() == []


async def test_mounts_outlive_the_daemon(start_daemon: StartDaemon, tmp_path: Path, image: Path) -> None:
    daemon = start_daemon(Wherryd())
    client = Client(daemon, daemon.namespace())
    metadata = metadata_for(client.namespace)
    lease = client.stub(leases_pb2, "Leases")
    await lease.create(leases_pb2.CreateRequest(id="lease"), metadata=metadata)
    kept = await client.activate(
        "kept",
        Mount(type="loop", source=str(image)),
        Mount(type="format/ext4", source="{{ mount 0 }}", options=["ro"]),
        Mount(type="format/overlay", source="overlay", options=["lowerdir={{ mount 1 }}"]),
        lease="lease",
    )
    lost = await client.activate("lost", bind(tmp_path), temporary=True, lease="lease")
    unheld = await client.activate("unheld", bind(tmp_path), temporary=True)
    await client.channel.close()
    daemon.kill()
    subprocess.run(["umount", lost.active[0].mount_point], check=True)
    # As if it had been killed while it was mounting.
    half = client.targets / "99"
    (half / "0").mkdir(parents=True)
    subprocess.run(["mount", "--bind", tmp_path, half / "0"], check=True)
    (half / "0.json").write_text('{"type": "bind", "source": "x", "target": "", "options": []}')
    (half / "1.json").write_text('{"type')
    daemon.start()
    client = Client(daemon, client.namespace)
    await until(lambda: len(client.mounted()) == 1, "cleaned up")
    assert await client.names() == ["kept"] and await client.info("kept") == kept
    assert unheld.active[0].mount_point not in client.mounted() and (tmp_path / "disk.img").exists()
    with open(f"{kept.active[1].mount_point}/hello") as file:
        assert file.read() == "world\n"
    await client.stub(leases_pb2, "Leases").delete(leases_pb2.DeleteRequest(id="lease", sync=True), metadata=metadata)
    assert client.left() == []
    await client.channel.close()


async def test_a_daemon_killed_at_any_moment_leaves_nothing(
    start_daemon: StartDaemon, tmp_path: Path, image: Path
) -> None:
    daemon = start_daemon(Wherryd())
    namespace = daemon.namespace()
    mounts = (
        Mount(type="loop", source=str(image), options=["ro"]),
        Mount(type="format/ext4", source="{{ mount 0 }}", options=["ro"]),
        bind(tmp_path),
        Mount(type="format/overlay", source="overlay", options=["lowerdir={{ overlay 1 2 }}"]),
    )

    async def use(client: Client, number: int) -> None:
        with contextlib.suppress(Error):
            while True:
                await client.activate(f"n{number}", *mounts)
                await client.deactivate(f"n{number}")

    for delay in (0.02, 0.05, 0.1, 0.2, 0.4):
        client = Client(daemon, namespace)
        using = asyncio.gather(*(use(client, number) for number in range(4)))
        await asyncio.sleep(delay)
        daemon.kill()
        await using
        await client.channel.close()
        daemon.start()
    client = Client(daemon, namespace)
    await collect(client)
    assert await client.names() == [] and client.left() == []
    assert str(image) not in [loop.backing_file(path.name) for path in Path("/sys/block").glob("loop*")]
    await client.channel.close()


def test_ctr_1_6_mounts_images_as_ever(wherryd: Wherryd, busybox_archive: Path, tmp_path: Path) -> None:
    namespace = wherryd.namespace()
    wherryd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    target = tmp_path / "target"
    target.mkdir()
    wherryd.ctr("images", "mount", BUSYBOX, target, namespace=namespace).check()
    assert (target / "bin").is_dir()
    wherryd.ctr("images", "unmount", "--rm", target, namespace=namespace).check()

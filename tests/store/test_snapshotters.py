"""Every snapshotter by the daemon: chosen as ctr and wherry choose one, with the same trees, usage and refusals."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd
from tests.images.trees import archive, entry, read_tree
from tests.store.stores import Client, Stores, local_client
from tests.store.test_btrfs import subvolumes
from tests.store.test_erofs import loop_devices
from tests.store.test_snapshots import REQUESTS
from wherry.api.services.diff.v1 import diff_pb2
from wherry.api.services.snapshots.v1 import snapshots_pb2 as api
from wherry.api.types.types_pb2 import Mount
from wherry.linux.mount import TemporaryMount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")

SNAPSHOTTERS = ("overlayfs", "native", "btrfs", "erofs")


@pytest.fixture(scope="session")
def wherryd_on_btrfs(btrfs_disk: Path, start_session_daemon: StartDaemon) -> Wherryd:
    """A wherryd with its root on btrfs, so that all snapshotters work there."""
    daemon = Wherryd()
    daemon.root = btrfs_disk / "wherryd"
    return start_session_daemon(daemon)


def test_all_work_there(wherryd_on_btrfs: Wherryd) -> None:
    listed = wherryd_on_btrfs.ctr("plugins", "ls", "type==io.containerd.snapshotter.v1").text.splitlines()[1:]
    assert sorted((line.split()[1], line.split()[3]) for line in listed) == [
        (name, "ok") for name in sorted(SNAPSHOTTERS)
    ]


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_a_container_by_ctr_and_wherry(snapshotter: str, wherryd_on_btrfs: Wherryd, busybox_archive: Path) -> None:
    daemon = wherryd_on_btrfs
    namespace = daemon.namespace()
    by_ctr = ("--snapshotter", snapshotter)
    daemon.ctr("images", "import", *by_ctr, busybox_archive, namespace=namespace).check()
    script = "echo new >/new && cat /new && rm /bin/vi && ! test -e /bin/vi && id -u"
    for _ in range(2):
        ran = daemon.ctr("run", "--rm", *by_ctr, BUSYBOX, daemon.id(), "sh", "-c", script, namespace=namespace).check()
        assert ran.text.split() == ["new", "0"]
    ran = daemon.wherry("run", "--rm", *by_ctr, BUSYBOX, "sh", "-c", script, namespace=namespace).check()
    assert ran.text.split() == ["new", "0"]
    running = daemon.id()
    daemon.ctr("run", "-d", *by_ctr, BUSYBOX, running, "sleep", "1000", namespace=namespace).check()
    info = daemon.ctr("containers", "info", running, namespace=namespace).check().text
    assert f'"Snapshotter": "{snapshotter}"' in info
    for other in SNAPSHOTTERS:
        keys = daemon._snapshots(other, namespace)
        assert len(keys) == (3 if other == snapshotter else 0)


@pytest.mark.parametrize("snapshotter", SNAPSHOTTERS)
def test_an_image_by_wherry(snapshotter: str, wherryd_on_btrfs: Wherryd, busybox_archive: Path) -> None:
    daemon = wherryd_on_btrfs
    namespace = daemon.namespace()
    daemon.wherry("image", "import", "--snapshotter", snapshotter, busybox_archive, namespace=namespace).check()
    assert len(daemon._snapshots(snapshotter, namespace)) == 2
    ran = daemon.wherry("run", "--rm", "--snapshotter", snapshotter, BUSYBOX, "echo", "hi", namespace=namespace).check()
    assert ran.text == "hi\n"


@pytest.mark.parametrize("snapshotter", ["btrfs", "erofs"])
def test_a_namespaces_own_default(snapshotter: str, wherryd_on_btrfs: Wherryd, busybox_archive: Path) -> None:
    daemon = wherryd_on_btrfs
    namespace = daemon.namespace()
    daemon.ctr("namespaces", "create", namespace, f"containerd.io/defaults/snapshotter={snapshotter}").check()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    daemon.ctr("run", "--rm", BUSYBOX, daemon.id(), "true", namespace=namespace).check()
    daemon.wherry("run", "--rm", BUSYBOX, "true", namespace=namespace).check()
    assert len(daemon._snapshots(snapshotter, namespace)) == 2
    assert daemon._snapshots("overlayfs", namespace) == []


def test_a_container_outlives_the_daemon(start_daemon: StartDaemon, btrfs_disk: Path, busybox_archive: Path) -> None:
    """What is mounted stays while the daemon is away, and goes with the last who needs it."""
    daemon = Wherryd()
    daemon.root = Path(tempfile.mkdtemp(prefix="wherryd-", dir=btrfs_disk))
    start_daemon(daemon)
    namespace = daemon.namespace()
    ids = {name: daemon.id() for name in ("btrfs", "erofs")}
    for name, id in ids.items():
        daemon.ctr("images", "import", "--snapshotter", name, busybox_archive, namespace=namespace).check()
        daemon.ctr("run", "-d", "--snapshotter", name, BUSYBOX, id, "sleep", "1000", namespace=namespace).check()
    daemon.kill()
    assert len(loop_devices(daemon.root)) == 2
    daemon.start()
    for name, id in ids.items():
        ran = daemon.ctr("tasks", "exec", "--exec-id", "e", id, "ls", "/bin/busybox", namespace=namespace).check()
        assert ran.text == "/bin/busybox\n"
        daemon.ctr("tasks", "rm", "--force", id, namespace=namespace)
        # Started again: on the same snapshot, by mounts that are asked for anew.
        daemon.ctr("tasks", "start", "-d", id, namespace=namespace).check()
        daemon.ctr("tasks", "rm", "--force", id, namespace=namespace)
        daemon.ctr("containers", "rm", id, namespace=namespace).check()
        assert len(daemon._snapshots(name, namespace)) == 2
    assert leaks.remaining(lambda: loop_devices(daemon.root)) == []
    daemon.ctr("images", "rm", "--sync", BUSYBOX, namespace=namespace).check()
    assert leaks.remaining(lambda: subvolumes(btrfs_disk, daemon.root)) == []
    daemon.stop()
    shutil.rmtree(daemon.root)


LAYERS = (
    [
        entry("etc", tarfile.DIRTYPE, mode=0o755, mtime=1_500_000_000.25),
        entry("etc/shadow", data=b"secret", mode=0o640, gid=42, mtime=1_400_000_000.5),
        entry("bin", tarfile.DIRTYPE, mode=0o755),
        entry("bin/su", data=b"s" * 70_000, mode=0o4755, pax_headers={"SCHILY.xattr.user.note": "here"}),
        entry("bin/su2", tarfile.LNKTYPE, linkname="bin/su", mode=0o4755),
        entry("lib", tarfile.SYMTYPE, linkname="usr/lib"),
        entry("opaque", tarfile.DIRTYPE, mode=0o700, uid=70_000, gid=4_000_000_000),
        entry("opaque/old", data=b"old"),
        entry("gone", tarfile.DIRTYPE),
        entry("gone/a", data=b"a"),
        entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        entry("fifo", tarfile.FIFOTYPE, mode=0o600),
        entry("tmp", tarfile.DIRTYPE, mode=0o1777),
    ],
    [
        entry("etc/.wh.shadow"),
        entry("etc/passwd", data=b"root", mtime=1_450_000_000),
        entry("opaque", tarfile.DIRTYPE, mode=0o750),
        entry("opaque/.wh..wh..opq"),
        entry("opaque/new", data=b"new"),
        entry(".wh.gone"),
    ],
    [
        entry("gone", data=b"a file now", uid=3),
        entry("bin/su", data=b"other", mode=0o755),
        entry("opaque/deep/down", tarfile.DIRTYPE, mode=0o711),
        entry("opaque/deep", tarfile.DIRTYPE, mode=0o701),
    ],
)

#: What containerd cannot apply to overlayfs: links to files of the layers below.
LINKS = [
    entry("link", tarfile.LNKTYPE, linkname="bin/su2", mode=0o4755),
    entry("lib2", tarfile.LNKTYPE, linkname="lib"),
]


class Unpacked:
    """The layers unpacked by one daemon with one snapshotter: the tree that they make, and the usage of each."""

    def __init__(self, client: Client, snapshotter: str, layers: Any = LAYERS, disk: Path | None = None) -> None:
        self._client = client
        self._disk = disk
        self._layers = layers
        self._snapshotter = snapshotter
        self.tree: Any = None
        self.usages: list[tuple[int, int]] = []

    async def _call(self, method: str, **fields: Any) -> Any:
        request = {**REQUESTS, "apply": diff_pb2.ApplyRequest}[method]
        stub = self._client.diff if method == "apply" else self._client.snapshots
        if method != "apply":
            fields["snapshotter"] = self._snapshotter
        return await getattr(stub, method)(request(**fields), metadata=self._client.metadata())

    async def in_order(self) -> Unpacked:
        """Each layer on the one below."""
        parent = ""
        for number, entries in enumerate(self._layers):
            mounts = (await self._call("prepare", key="k", parent=parent)).mounts
            await self._call("apply", diff=await self._client.write_layer(archive(entries)), mounts=mounts)
            if self._disk is not None:  # blocks are counted when they are there
                subprocess.run(["sync", "-f", self._disk], check=True)
            parent = f"layer{number}"
            await self._call("commit", key="k", name=parent)
        await self._look(parent)
        return self

    async def apart(self) -> Unpacked:
        """Each layer alone, the topmost first, and committed with the one below, as containerd 2.2's client does."""
        for number, entries in reversed(list(enumerate(self._layers))):
            (mount,) = (await self._call("prepare", key=f"k{number}")).mounts
            if number:
                mount = Mount(type="overlay", source="overlay", options=["rw", f"upperdir={mount.source}"])
            await self._call("apply", diff=await self._client.write_layer(archive(entries)), mounts=[mount])
        parent = ""
        for number in range(len(self._layers)):
            await self._call("commit", key=f"k{number}", name=f"layer{number}", parent=parent)
            parent = f"layer{number}"
        await self._look(parent)
        return self

    async def _look(self, top: str) -> None:
        for number in range(len(self._layers)):
            usage = await self._call("usage", key=f"layer{number}")
            self.usages.append((usage.size, usage.inodes))
        with TemporaryMount((await self._call("view", key="view", parent=top)).mounts) as at:
            self.tree = read_tree(at)
            root = os.stat(at)
            self.tree["/"] = (root.st_mode, root.st_uid, root.st_gid)
        await self._call("remove", key="view")


def comparable(tree: Any) -> Any:
    """A tree but for the times of directories, which change where entries are put into them, and for lone hard links:
    an overlay still counts the names that were removed."""

    def seen(found: Any) -> Any:
        if not isinstance(found, dict):
            return found
        dropped = {"mtime"} if stat.S_ISDIR(int(found["mode"], 8)) else set()
        if len(found.get("names", [])) == 1:
            dropped.add("names")
        return {key: value for key, value in found.items() if key not in dropped}

    return {path: seen(found) for path, found in tree.items()}


async def test_the_same_tree_with_all(btrfs_stores: Stores, theirs_on_btrfs: Client, btrfs_disk: Path) -> None:
    client = local_client(btrfs_stores)
    ours = {name: await Unpacked(client, name, disk=btrfs_disk).in_order() for name in SNAPSHOTTERS}
    tree = ours["overlayfs"].tree
    assert tree["etc/passwd"] and tree["bin/su2"] and "gone/a" not in tree and "opaque/old" not in tree
    assert ours["erofs"].tree == tree
    for name in ("overlayfs", "native", "btrfs"):
        assert comparable(ours[name].tree) == comparable(tree), name
        theirs = await Unpacked(theirs_on_btrfs, name, disk=btrfs_disk).in_order()
        assert comparable(theirs.tree) == comparable(tree), name
        assert theirs.usages == ours[name].usages, name


@pytest.mark.parametrize("snapshotter", ["overlayfs", "erofs"])
async def test_layers_unpacked_apart_make_the_same_tree(snapshotter: str, stores: Stores) -> None:
    client = local_client(stores)
    layers = [*LAYERS[:2], LINKS, LAYERS[2]]
    in_order = await Unpacked(client, snapshotter, layers).in_order()
    client.namespace = client.new_namespace()
    apart = await Unpacked(client, snapshotter, layers).apart()
    assert in_order.tree["link"]["content"] == in_order.tree["bin/su2"]["content"]
    assert apart.tree == in_order.tree


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native", "erofs"])
async def test_a_cleanup(snapshotter: str, ours: Client) -> None:
    request = api.CleanupRequest(snapshotter=snapshotter)
    assert not isinstance(await ours.outcome(ours.snapshots, "cleanup", request), str)

"""kill -9 of the daemon at every step of what btrfs and erofs do with snapshots: a restart leaves what is recorded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.faults.inject import sitecustomize as inject
from tests.harness import leaks
from tests.harness.daemon import Wherryd

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None, reason="needs root and btrfs-progs"),
    pytest.mark.timeout(600),
]

STEPS = {
    name: [
        step
        for step in inject.names("wherry.store.snapshots")
        if f".{name}." in step or (".directories." in step and not (name == "btrfs" and "_delete" in step))
    ]
    for name in ("btrfs", "erofs")
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A btrfs, on which all snapshotters work."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True, capture_output=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


class Life:
    """Snapshots made, written to, committed and removed by ctr, with a daemon that dies on the way."""

    def __init__(self, daemon: Wherryd, disk: Path, snapshotter: str) -> None:
        self.daemon = daemon
        self.disk = disk
        self.snapshotter = snapshotter
        self.namespace = daemon.namespace()
        self.root = daemon.root / f"io.containerd.snapshotter.v1.{snapshotter}"

    def snapshots(self, *words: str) -> str:
        flags = ("snapshots", "--snapshotter", self.snapshotter)
        return self.daemon.ctr(*flags, *words, namespace=self.namespace).text

    def live(self) -> None:
        self.snapshots("prepare", "a")
        self.snapshots("commit", "A", "a")
        self.snapshots("prepare", "b", "A")
        self.snapshots("mounts", "somewhere", "b")
        self.snapshots("commit", "B", "b")
        self.snapshots("view", "v", "B")
        self.snapshots("prepare", "c", "B")
        for key in ("c", "v", "B", "A"):
            self.snapshots("rm", key)

    def left(self) -> list[str]:
        """What is on the machine and is not what the records stand for."""
        rows = [row.split() for row in self.snapshots("ls").splitlines()[1:]]
        kinds = [row[-1] for row in rows]
        # A view of a parent has none of its own.
        with_files = sum(not (len(row) == 3 and row[-1] == "View") for row in rows)
        found = leaks.entries(self.root / "snapshots")
        left = [] if len(found) == with_files else [f"{with_files} records, and {found}"]
        left += [str(path) for path in found if not path.name.isdecimal()]
        left += [str(path) for path in found if self.snapshotter == "erofs" and not _whole(path)]
        listed = subprocess.run(["btrfs", "subvolume", "list", self.disk], check=True, capture_output=True, text=True)
        if self.snapshotter == "btrfs" and len(listed.stdout.splitlines()) != len(found):
            left.append(listed.stdout)
        # Images are mounted for what can be mounted itself, at the most.
        mounted = [line for line in leaks.mounts() if f" {self.root}/mounts/" in line]
        images = sum((path / "layer.erofs").exists() for path in found)
        if len(mounted) > (images if {"Active", "View"} & set(kinds) else 0):
            left += mounted
        devices = subprocess.run(["losetup", "-n", "-O", "BACK-FILE"], check=True, capture_output=True, text=True)
        attached = [line for line in devices.stdout.splitlines() if f"{self.root}/" in line]
        return left + (attached if len(attached) != len(mounted) else [])


def _whole(directory: Path) -> bool:
    """Say whether a snapshot's directory is that of an active or a committed one; an image may be made in vain."""
    return {path.name for path in leaks.entries(directory)} - {"root", "layer.erofs"} in ({"fs", "work"}, {"fs"}, set())


@pytest.mark.parametrize("snapshotter", ["btrfs", "erofs"])
def test_the_daemon_at_every_step(snapshotter: str, disk: Path, start_daemon: StartDaemon, tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    faults.mkdir()
    places = [str(Path(inject.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    daemon = Wherryd(env={"WHERRY_TEST_FAULTS": str(faults), "PYTHONPATH": os.pathsep.join(places)})
    daemon.root = Path(tempfile.mkdtemp(dir=disk))
    start_daemon(daemon)
    life = Life(daemon, disk, snapshotter)
    for step in STEPS[snapshotter]:
        (faults / f"armed {step}").touch()
        life.live()
        assert list(faults.glob("hit *")), f"{step} is never reached"
        for hit in faults.glob("hit *"):
            hit.unlink()
        assert daemon._process is not None and daemon._process.wait(10) == -signal.SIGKILL
        daemon.start()
        left = leaks.remaining(life.left)
        assert not left, (step, left)
        daemon.sweep(life.namespace)
        left = leaks.remaining(life.left)
        assert not left and not leaks.entries(life.root / "snapshots"), (step, left)

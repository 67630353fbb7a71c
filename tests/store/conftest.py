from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness import leaks
from tests.harness.daemon import Containerd
from tests.store.stores import Client, Stores, containerd_client, local_client, opened


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    async with opened(tmp_path) as stores:
        yield stores
    # As when a daemon has been stopped, images of what can be mounted still are.
    leaks.unmount(tmp_path)


@pytest.fixture
def ours(stores: Stores) -> Client:
    return local_client(stores)


_KEEPS = """
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 1000000000
  mutation_threshold = 1000000000
  startup_delay = "1000h"
"""


@pytest.fixture(scope="session")
def keeping_containerd() -> Iterator[Containerd]:
    """Debian's containerd as a store alone: it collects no garbage, so what a test leaves unlabelled stays there."""
    if shutil.which("containerd") is None or os.geteuid() != 0:
        pytest.skip("needs root and containerd")
    daemon = Containerd(config=_KEEPS)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
async def theirs(keeping_containerd: Containerd) -> AsyncIterator[Client]:
    client = containerd_client(keeping_containerd)
    yield client
    await client.channel.close()


@pytest.fixture(scope="session")
def btrfs_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs of 512 MiB."""
    if shutil.which("mkfs.btrfs") is None or os.geteuid() != 0:
        pytest.skip("needs root and btrfs-progs")
    directory = tmp_path_factory.mktemp("btrfs")
    image, disk = directory / "image", directory / "disk"
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", image], check=True)
    disk.mkdir()
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
async def btrfs_stores(btrfs_disk: Path) -> AsyncIterator[Stores]:
    """Stores whose directory is on btrfs."""
    directory = Path(tempfile.mkdtemp(prefix="ours-", dir=btrfs_disk))
    async with opened(directory) as stores:
        yield stores
    leaks.unmount(directory)


@pytest.fixture(scope="session")
def containerd_on_btrfs(btrfs_disk: Path) -> Iterator[Containerd]:
    """Debian's containerd, which collects no garbage, with its root on btrfs."""
    daemon = Containerd(config=_KEEPS)
    daemon.root = btrfs_disk / "theirs"
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


@pytest.fixture
async def theirs_on_btrfs(containerd_on_btrfs: Containerd) -> AsyncIterator[Client]:
    client = containerd_client(containerd_on_btrfs)
    yield client
    await client.channel.close()

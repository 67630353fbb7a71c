from __future__ import annotations

import os
import shutil
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


@pytest.fixture(scope="session")
def keeping_containerd() -> Iterator[Containerd]:
    """Debian's containerd as a store alone: it collects no garbage, so what a test leaves unlabelled stays there."""
    if shutil.which("containerd") is None or os.geteuid() != 0:
        pytest.skip("needs root and containerd")
    daemon = Containerd(
        config="""
[plugins."io.containerd.gc.v1.scheduler"]
  deletion_threshold = 1000000000
  mutation_threshold = 1000000000
  startup_delay = "1000h"
"""
    )
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

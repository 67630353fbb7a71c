from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.client.image_archives import Archives, LayoutBuilder, make_archives
from tests.client.places import Place
from tests.harness.daemon import Daemon
from wherry.rpc.grpc_channel import GrpcChannel


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    """One image in every form that is imported; skips where a tool that makes one is not installed."""
    for program in ("umoci", "skopeo", "podman", "zstd", "xz", "bzip2"):
        if shutil.which(program) is None or os.geteuid() != 0:
            pytest.skip(f"needs root and {program}")
    directory = tmp_path_factory.mktemp("archives")
    yield make_archives(directory)
    shutil.rmtree(directory)


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "built")


@pytest.fixture
async def new_place(containerd: Daemon) -> AsyncIterator[Callable[[], Place]]:
    """Make namespaces in Debian's containerd."""
    channel = GrpcChannel(containerd.address)
    yield lambda: Place(channel, containerd.namespace())
    await channel.close()


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """A namespace in Debian's containerd."""
    return new_place()

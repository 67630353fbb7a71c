from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.image_archives import Archives, LayoutBuilder, make_archives
from tests.client.places import Place
from tests.harness.daemon import Daemon
from wherry.rpc.blocking_channel import BlockingTtrpcChannel
from wherry.rpc.grpc_channel import GrpcChannel


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    """One image in every form that is imported; skips where a tool that makes one is not installed."""
    for program in ("umoci", "skopeo", "podman"):
        if shutil.which(program) is None or os.geteuid() != 0:
            pytest.skip(f"needs root and {program}")
    directory = tmp_path_factory.mktemp("archives")
    yield make_archives(directory)
    shutil.rmtree(directory)


def _blocking(address: str) -> BlockingTtrpcChannel:
    return BlockingTtrpcChannel.connect(address + ".ttrpc")


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "built")


#: Daemon, and how it is called: the two that are used. The other channels have a test of their own.
_PLACES: dict[str, Callable[[str], Any]] = {"containerd, gRPC": GrpcChannel, "wherryd, blocking ttrpc": _blocking}


@pytest.fixture(params=_PLACES)
async def new_place(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[], Place]]:
    """Make namespaces in a daemon."""
    daemon: Daemon = request.getfixturevalue(request.param.partition(",")[0])
    channel = _PLACES[request.param](daemon.address)
    yield lambda: Place(channel, daemon.namespace(), daemon)
    await channel.close()


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """A namespace in a daemon."""
    return new_place()

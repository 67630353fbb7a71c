from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rpc.transports import TRANSPORTS, Echo


@pytest.fixture(params=TRANSPORTS)
async def echo(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Echo]:
    async with TRANSPORTS[request.param](tmp_path / "s.sock") as fixture:
        yield fixture


@pytest.fixture(params=["ttrpc", "grpc"])
async def wire(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Echo]:
    """As echo, but only where there is a connection."""
    async with TRANSPORTS[request.param](tmp_path / "s.sock") as fixture:
        yield fixture

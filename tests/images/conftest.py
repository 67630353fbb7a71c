from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.images.peer import Peer


@pytest.fixture
async def peer(containerd: Any) -> AsyncIterator[Peer]:
    peer = Peer(containerd.address, containerd.namespace())
    yield peer
    await peer.channel.close()

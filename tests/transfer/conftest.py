"""Fixtures of the tests of transfers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.harness.daemon import Wherryd
from tests.transfer.go_client import GoClient
from wherry.rpc.grpc_channel import GrpcChannel


@pytest.fixture
async def go_client(wherryd: Wherryd) -> AsyncIterator[GoClient]:
    """A client that speaks as ctr 2.3 does, in a namespace of its own."""
    channel = GrpcChannel(wherryd.address)
    yield GoClient(channel, wherryd.namespace())
    await channel.close()

"""What a collection leaves of generated worlds: the same as Debian's containerd, and as a plain model of the rules."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import need_root
from tests.harness.daemon import Containerd, Daemon, Wherryd
from tests.store.stores import Stores
from tests.store.worlds import Maker, World, worlds
from wherry.client.client import Client
from wherry.rpc.grpc_channel import GrpcChannel

if TYPE_CHECKING:
    from wherry.rpc.channel import Channel

#: Collections on demand alone.
_THEIRS = """
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.0000001
  mutation_threshold = 0
  startup_delay = "1000h"
"""
_OURS = '[gc]\npause_threshold = 0.0000001\nmutation_threshold = 0\nstartup_delay = "1000h"\n'


@pytest.fixture(scope="module")
def theirs() -> Iterator[Daemon]:
    need_root("containerd", "ctr")
    yield from _running(Containerd(config=_THEIRS))


@pytest.fixture(scope="module")
def ours() -> Iterator[Daemon]:
    need_root("ctr")
    yield from _running(Wherryd(config=_OURS))


def _running(daemon: Daemon) -> Iterator[Daemon]:
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()


async def collected(channel: Channel, world: World) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """What there is of a world before and after a collection; what went is checked to be what the model says."""
    maker = Maker(Client(channel, f"n{uuid.uuid4().hex}"))
    await maker.make(world)
    inventory = await maker.inventory()
    inventory.leases = [(lease, held) for lease, held in inventory.leases if lease.id != "hold"]
    before = inventory.nodes()
    await maker.let_go()
    left = await maker.left()
    assert before - left == inventory.garbage()
    return before, left


async def collected_by(daemon: Daemon, world: World) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    channel = GrpcChannel(daemon.address)
    try:
        return await collected(channel, world)
    finally:
        await channel.close()


@given(world=worlds("1.6"))
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_what_containerd_leaves(ours: Daemon, theirs: Daemon, world: World) -> None:
    assert asyncio.run(collected_by(ours, world)) == asyncio.run(collected_by(theirs, world))


@given(world=worlds("2.x"))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
async def test_what_the_model_leaves(stores: Stores, world: World) -> None:
    await collected(stores.channel(), world)

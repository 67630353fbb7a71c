"""What a collection leaves of generated worlds: the same as Debian's containerd, and as a plain model of the rules."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import need_root
from tests.harness.daemon import Containerd, Daemon, Wherryd
from tests.store.worlds import Maker, World, worlds
from wherry.client.client import Client
from wherry.client.garbage import Inventory
from wherry.rpc.grpc_channel import GrpcChannel

#: Collections on demand alone.
_THEIRS = """
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.0000001
  mutation_threshold = 0
  startup_delay = "1000h"
"""
_OURS = '[gc]\npause_threshold = 0.0000001\nmutation_threshold = 0\nstartup_delay = "1000h"\n'

_UNHURRIED = settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))


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


async def collected(daemon: Daemon, world: World) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """What a daemon leaves of a world, and what the model says it removes."""
    channel = GrpcChannel(daemon.address)
    try:
        maker = Maker(Client(channel, f"n{uuid.uuid4().hex}"))
        await maker.make(world)
        inventory = await Inventory.read(maker.client)
        inventory.leases = [(lease, held) for lease, held in inventory.leases if lease.id != "hold"]
        before = inventory.nodes()
        await maker.let_go()
        left = await maker.left()
        assert before - left == inventory.garbage()
        return left, before
    finally:
        await channel.close()


@given(world=worlds("1.6"))
@_UNHURRIED
def test_what_containerd_leaves(ours: Daemon, theirs: Daemon, world: World) -> None:
    assert asyncio.run(collected(ours, world)) == asyncio.run(collected(theirs, world))


@given(world=worlds("2.x"))
@_UNHURRIED
def test_what_the_model_leaves(ours: Daemon, world: World) -> None:
    asyncio.run(collected(ours, world))

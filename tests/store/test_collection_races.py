"""A collection beside writers: what somebody refers to between mark and sweep stays, with all that it leads to."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.stores import Stores, opened
from tests.store.worlds import GC, SNAPSHOTTER, Maker, World, digest, key, labels_of, worlds
from wherry.client.client import Client
from wherry.errors import AlreadyExists, InvalidArgument, NotFound
from wherry.store import collection, marking

_numbers = st.integers(0, 6)
#: What somebody may do: a name of Writer's methods and numbers.
_actions = st.tuples(
    st.sampled_from(
        ["image", "hold", "hold_snapshot", "refer", "refer_back", "use", "stand_on", "contain", "write", "root"]
    ),
    _numbers,
    _numbers,
)


class Writer:
    """Makes new references, each of which may fail for what is not there any more."""

    def __init__(self, maker: Maker) -> None:
        self.maker = maker
        self._client = Client(maker.client.channel, maker.client.namespace)
        self._count = 100

    async def act(self, action: tuple[str, int, int]) -> None:
        name, first, second = action
        self._count += 1
        try:
            await getattr(self, name)(first, second)
        except (NotFound, AlreadyExists, InvalidArgument):
            pass  # the snapshot below, the blob that is to be labelled

    async def image(self, target: int, _other: int) -> None:
        await self.maker.image(self._count, target)

    async def hold(self, blob: int, _other: int) -> None:
        await self.maker.hold("late", ("content", blob))

    async def hold_snapshot(self, snapshot: int, _other: int) -> None:
        await self.maker.hold("late", ("snapshot", snapshot))

    async def refer(self, blob: int, other: int) -> None:
        labels = {f"{GC}ref.content.late": digest(other), f"{GC}ref.snapshot.{SNAPSHOTTER}": key(("snapshot", blob))}
        await self._client.content.update_labels(digest(blob), labels)

    async def refer_back(self, blob: int, other: int) -> None:
        await self._client.content.update_labels(digest(blob), {f"{GC}bref.content.late": digest(other)})

    async def use(self, blob: int, snapshot: int) -> None:
        labels = {f"{GC}cond.snapshot.{SNAPSHOTTER}/late": f"usedat<1h,usedat>1h|{key(('snapshot', snapshot))}"}
        await self._client.content.update_labels(digest(blob), labels)

    async def root(self, blob: int, _other: int) -> None:
        await self._client.content.update_labels(digest(blob), {f"{GC}root": "1"})

    async def stand_on(self, parent: int, _other: int) -> None:
        late = Client(self._client.channel, self._client.namespace, "late")
        await late.snapshots(SNAPSHOTTER).prepare(f"late-{self._count}", key(("snapshot", parent)))

    async def contain(self, snapshot: int, _other: int) -> None:
        await self.maker.container(self._count, snapshot)

    async def write(self, blob: int, other: int) -> None:
        late = Client(self._client.channel, self._client.namespace, "late")
        labels = labels_of([("ref.content", ("content", other))])
        await late.content.write("late", [f"blob {blob}".encode()], labels=labels)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds("2.x"), rounds=st.lists(st.lists(_actions, max_size=3), min_size=1, max_size=8))
async def test_what_is_referred_to_meanwhile_stays(world: World, rounds: list[list[tuple[str, int, int]]]) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "_BATCH", 1)
        patch.setattr(collection, "_NOTED", 2)
        async with opened(Path(directory)) as stores:
            await _collect_meanwhile(stores, world, rounds)


async def _collect_meanwhile(stores: Stores, world: World, rounds: list[list[tuple[str, int, int]]]) -> None:
    maker = Maker(Client(stores.channel(), "n"))
    writer = Writer(maker)
    await maker.make(world)
    await maker.lease("late", {})
    await maker.client.leases.delete("hold")
    needed: set[tuple[str, str]] = set()
    waiting = list(rounds)

    async def others_write() -> None:
        """Let the others write, and remember what is reachable then: they never take a reference away."""
        for action in waiting.pop(0) if waiting else []:
            await writer.act(action)
        inventory = await maker.inventory()
        needed.update(inventory.nodes() - inventory.garbage())

    await stores.database.write(collection._watch)
    await others_write()
    garbage = marking.Marker(stores.database.path).mark(time.time_ns())
    sweep = collection._Sweep(garbage)
    while not sweep.done and garbage:
        await others_write()
        await stores.database.write(sweep.step)
    await stores.database.write(collection._unwatch)
    left = (await maker.inventory()).nodes()
    assert needed <= left
    await stores.collector.collect()
    inventory = await maker.inventory()
    assert needed <= inventory.nodes()
    assert inventory.garbage() == set()


@pytest.mark.parametrize("chain", [(1, 2, 3), (3, 2, 1)])
async def test_what_refers_goes_first(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, chain: tuple[int, int, int]
) -> None:
    """Of a chain whose first was deleted, the second is found and referred to: the third is there with it.

    Both ways round, since one of them may be the order in which the database has them.
    """
    monkeypatch.setattr(collection, "_BATCH", 1)
    first, second, third = chain
    maker = Maker(Client(stores.channel(), "n"))
    await maker.make(World())
    await maker.blob(third)
    await maker.blob(second, [("ref.content", ("content", third))])
    await maker.blob(first, [("ref.content", ("content", second))])
    await maker.client.leases.delete("hold")
    await stores.database.write(collection._watch)
    sweep = collection._Sweep(marking.Marker(stores.database.path).mark(time.time_ns()))
    await stores.database.write(sweep.step)
    await maker.image(1, second)
    while not sweep.done:
        await stores.database.write(sweep.step)
    await stores.database.write(collection._unwatch)
    assert (await maker.inventory()).nodes() >= {("content", digest(second)), ("content", digest(third))}
    assert ("content", digest(first)) not in (await maker.inventory()).nodes()


async def test_pulls_beside_collections(stores: Stores) -> None:
    """Blobs are committed under leases, referred to and let go while one collection follows another."""

    async def pull(number: int) -> None:
        leased = Client(stores.channel(), "n")
        for count in range(15):
            manifest, layer = 1000 * number + 2 * count, 1000 * number + 2 * count + 1
            async with leased.leases.hold() as lease:
                maker = Maker(Client(stores.channel(), "n"))
                maker.client = Client(stores.channel(), "n", lease.id)
                await maker.blob(layer)
                await maker.blob(manifest, [("ref.content.l.0", ("content", layer))])
                await maker.image(manifest, manifest)
            stores.content.info("n", digest(layer))
            stores.content.info("n", digest(manifest))

    async def collect() -> None:
        while True:
            await stores.collector.collect()

    collecting = asyncio.create_task(collect())
    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(pull(number))
    collecting.cancel()
    await asyncio.wait([collecting])
    for number in range(4):
        for count in range(30):
            stores.content.info("n", digest(1000 * number + count))

"""A container's figures: those that we read, beside those that Debian's shim reads of the same container."""

from __future__ import annotations

import asyncio

from tests.shim import states
from tests.shim.figures import differences, flat
from tests.shim.lab import Lab, eventually
from tests.shim.peers import Ours, StockV2
from wherry.api.types.types_pb2 import Mount
from wherry.errors import NotFound
from wherry.linux.cgroup import unified
from wherry.shim import metrics


async def test_the_same_figures(lab: Lab) -> None:
    script = "dd if=/dev/zero of=/tmp/f bs=64k count=10 oflag=direct; dd if=/tmp/f of=/dev/null bs=64k iflag=direct; "
    container = await lab.shim(StockV2, "sh", "-c", script + "sleep 1000", memory=64 << 20)
    for name in ("upper", "work"):
        (lab.directory / name).mkdir()
    layers = [f"lowerdir={lab.rootfs}", f"upperdir={lab.directory}/upper", f"workdir={lab.directory}/work"]
    await container.create(rootfs=[Mount(type="overlay", source="overlay", options=layers)])
    await container.start()
    await eventually(lambda: (lab.directory / "upper/tmp/f").exists())
    await asyncio.sleep(0.2)
    await container.update({"pids": {"limit": 40}})
    theirs = flat(await container.stats())
    ours = flat(metrics.collect(metrics.cgroup_paths((await container.state()).pid)))
    assert not differences(ours, theirs)
    assert ours["pids.limit"] == 40
    assert ours["memory.usage.limit"] == 64 << 20
    await container.stop()
    await container.end_shim()


async def test_figures_until_delete(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000", memory=64 << 20)
    await states.stopped(container)
    figures = await container.stats()
    assert (figures.memory.usage_limit if unified() else figures.memory.usage.limit) == 64 << 20
    await container.delete()
    try:
        await container.stats()
    except NotFound as error:
        assert error.message == "container not created: not found"
    await container.end_shim()

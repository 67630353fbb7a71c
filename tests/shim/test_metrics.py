"""A container's figures: those that we read, beside those that Debian's shim reads of the same container."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.shim import states
from tests.shim.lab import Lab, eventually
from tests.shim.peers import Ours, StockV2
from wherry.api.types.types_pb2 import Mount
from wherry.errors import NotFound
from wherry.shim import metrics

#: What goes on counting between one reading and the next, on a machine that does other things as well.
_MOVING = ("cpu.usage", "memory.usage.usage", "memory.kernel.usage", "memory.swap.usage")


def _flat(message: Any, prefix: str = "") -> dict[str, Any]:
    """Return all set fields by their dotted names; entries of lists are numbered."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.message_type is None:
            found[name] = value if isinstance(value, int | str | float) else list(value)
        elif not hasattr(value, "ListFields"):
            for number, entry in enumerate(value):
                found.update(_flat(entry, f"{name}.{number}."))
        else:
            found[name] = "message"
            found.update(_flat(value, f"{name}."))
    return found


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
    theirs = _flat(await container.stats())
    ours = _flat(metrics.collect(metrics.cgroup_paths((await container.state()).pid)))
    assert ours.keys() == theirs.keys()
    different = {
        name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name] and not name.startswith(_MOVING)
    }
    assert not different
    assert ours["pids.limit"] == 40
    assert ours["memory.usage.limit"] == 64 << 20
    await container.stop()
    await container.end_shim()


async def test_figures_until_delete(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000", memory=64 << 20)
    await states.stopped(container)
    figures = await container.stats()
    assert figures.memory.usage.limit == 64 << 20
    await container.delete()
    try:
        await container.stats()
    except NotFound as error:
        assert error.message == "container not created: not found"
    await container.end_shim()

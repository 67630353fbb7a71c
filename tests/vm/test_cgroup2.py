"""Containers under cgroup v2 alone: the same on our shim as on Debian's, step by step, in the kernel's own files."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.shim.figures import differences, flat
from tests.shim.lab import Container, Lab, Reader, eventually
from tests.shim.peers import Ours, OursV1, Shim, StockV2
from wherry.api import typeurl
from wherry.api.metrics.cgroups.v2.metrics_pb2 import Metrics
from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.api.types.types_pb2 import Mount
from wherry.shim import metrics

pytestmark = pytest.mark.vm

_CGROUPS = Path("/sys/fs/cgroup")

#: What create, pause and update write.
_FILES = (
    "memory.max",
    "memory.swap.max",
    "memory.low",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "cgroup.freeze",
)

_MEMORY = 64 << 20


def _cgroup(container: Container) -> Path:
    return _CGROUPS / container.lab.namespace / container.id


def _settings(container: Container) -> dict[str, str]:
    found = {name: (_cgroup(container) / name).read_text().strip() for name in _FILES}
    events = (_cgroup(container) / "cgroup.events").read_text().split()
    return {**found, "frozen": events[events.index("frozen") + 1]}


async def _life(lab: Lab, kind: type[Shim], **fields: Any) -> list[Any]:
    """Lead a container through its life; return what was seen of it in the kernel and from the shim."""
    seen: list[Any] = []
    before = len(lab.sink.events)
    container = await lab.shim(kind, "sleep", "1000", memory=_MEMORY)
    await container.create(**fields)
    seen.append(("created", _settings(container), (await container.state()).status))
    await container.start()
    await container.pause()
    seen.append(("paused", _settings(container), (await container.state()).status))
    await container.resume()
    seen.append(("resumed", _settings(container), (await container.state()).status))
    await container.update(
        {
            "memory": {"limit": 2 * _MEMORY, "swap": 3 * _MEMORY, "reservation": _MEMORY},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 40},
        }
    )
    seen.append(("updated", _settings(container)))
    await container.exec("e", "sleep", "1000")
    await container.start("e")
    seen.append(("processes", len((_cgroup(container) / "cgroup.procs").read_text().split())))
    if not container.v1:
        figures = await container.stats()
        assert isinstance(figures, Metrics)
        seen.append(("figures", figures.pids.limit, figures.memory.usage_limit, figures.memory.swap_limit))
    await container.pause()
    await container.kill(9, all=True)
    with contextlib.suppress(Exception):
        await container.resume()  # runc has thawed what it killed, or it has not
    await container.wait()
    await container.delete()
    seen.append(("deleted", _cgroup(container).exists()))
    await container.end_shim()
    if not container.v1:
        await lab.sink.wait_for(
            "/tasks/delete", sum(topic == "/tasks/delete" for topic in lab.sink.topics[:before]) + 1
        )
        seen.append([topic for topic in lab.sink.topics[before:] if topic != "/tasks/resumed"])
    return seen


async def test_life(lab: Lab) -> None:
    theirs = await _life(lab, StockV2)
    ours = await _life(lab, Ours)
    assert ours == theirs
    steps = {step[0]: step[1] for step in ours if isinstance(step, tuple)}
    assert steps["created"]["memory.max"] == str(_MEMORY)
    assert (steps["paused"]["frozen"], steps["resumed"]["frozen"]) == ("1", "0")
    assert steps["updated"]["cpu.max"] == "50000 100000"
    assert steps["updated"]["memory.swap.max"] == str(_MEMORY)
    assert steps["processes"] == 2
    assert steps["deleted"] is False
    # Debian's shim of runtime v1 knows no cgroup v2 at all; ours does what it does in the other versions.
    first = await _life(lab, OursV1)
    assert first == [step for step in ours if isinstance(step, tuple) and step[0] != "figures"]


async def test_life_with_crun(lab: Lab) -> None:
    seen = await _life(lab, Ours, options=typeurl.pack(Options(binary_name="crun")))
    steps = {step[0]: step[1] for step in seen if isinstance(step, tuple)}
    assert steps["created"]["memory.max"] == str(_MEMORY)
    assert (steps["paused"]["frozen"], steps["resumed"]["frozen"]) == ("1", "0")
    assert steps["updated"]["cpu.max"] == "50000 100000"
    assert steps["deleted"] is False


@pytest.fixture
def block_device(tmp_path: Path) -> Iterator[Path]:
    """A file system on a device whose reads and writes are counted: a tmpfs has none."""
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    mounted.mkdir()
    with open(disk, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mounted], check=True)
    yield mounted
    subprocess.run(["umount", mounted], check=True)


async def test_figures(lab: Lab, block_device: Path) -> None:
    """Those that Debian's shim tells of its container, and those that we read of the same one."""
    script = (
        "dd if=/dev/zero of=/tmp/f bs=64k count=10 oflag=direct; dd if=/tmp/f of=/dev/null bs=64k iflag=direct; "
        "head -c 4000000 /dev/zero >/dev/shm/f; touch /tmp/done; sleep 1000"
    )
    container = await lab.shim(StockV2, "sh", "-c", script, memory=_MEMORY)
    for name in ("upper", "work"):
        (block_device / name).mkdir()
    layers = [f"lowerdir={lab.rootfs}", f"upperdir={block_device}/upper", f"workdir={block_device}/work"]
    await container.create(rootfs=[Mount(type="overlay", source="overlay", options=layers)])
    await container.start()
    await eventually(lambda: (block_device / "upper/tmp/done").exists())
    await container.update({"pids": {"limit": 40}, "cpu": {"quota": 50000, "period": 100000}})
    await asyncio.sleep(0.5)
    theirs = flat(await container.stats())
    ours = flat(metrics.collect(metrics.cgroup_paths((await container.state()).pid)))
    assert not differences(ours, theirs)
    assert ours["pids.limit"] == 40
    assert ours["memory.usage_limit"] == _MEMORY
    assert ours["io.usage.0.wbytes"] >= 10 << 16
    assert ours["io.usage.0.rbytes"] >= 10 << 16
    await container.stop()
    await container.end_shim()


async def _killed_for_memory(lab: Lab, kind: type[Shim]) -> tuple[list[str], int, int]:
    """Have the kernel kill an exec, and then init; return topics but those of streams, and both exit statuses."""
    before = len(lab.sink.events)
    eat = "head -c 100000000 /dev/zero | tail"
    container = await lab.shim(kind, "sh", "-c", f"read line; {eat}; exit 7", memory=8 << 20)
    stdin = container.fifo("in")
    # Debian's shim waits for somebody who writes.
    writer = os.open(stdin, os.O_RDWR | os.O_NONBLOCK)
    out, err = container.fifo("out"), container.fifo("err")
    screens = Reader(out), Reader(err)
    await container.create(stdin=stdin, stdout=out, stderr=err)
    await container.start()
    await container.exec("e", "sh", "-c", eat)
    await container.start("e")
    of_exec = (await container.wait("e")).exit_status
    await eventually(lambda: "/tasks/oom" in lab.sink.topics[before:])
    os.write(writer, b"go\n")
    os.close(writer)
    await screens[0].ended()
    of_init = (await container.wait()).exit_status
    await eventually(lambda: lab.sink.topics[before:].count("/tasks/oom") >= 2)
    assert (await container.stats()).memory_events.oom_kill >= 2
    await container.delete()
    await eventually(lambda: "/tasks/delete" in lab.sink.topics[before:])
    await container.end_shim()
    for topic, event in lab.sink.events[before:]:
        assert topic != "/tasks/oom" or event.container_id == container.id
    return lab.sink.topics[before:], of_exec, of_init


async def test_out_of_memory(lab: Lab) -> None:
    theirs, *their_statuses = await _killed_for_memory(lab, StockV2)
    ours, *our_statuses = await _killed_for_memory(lab, Ours)
    assert set(ours) == set(theirs)
    assert our_statuses == their_statuses
    assert our_statuses == [137, 7]

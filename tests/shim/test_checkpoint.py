"""Checkpoint and restore, where CRIU works; where it does not, its own reason, and a container unharmed."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from tests.shim import states
from tests.shim.lab import Lab, Reader
from tests.shim.peers import Ours
from wherry.api import typeurl
from wherry.api.runtime.runc.v1.options_pb2 import CheckpointOptions
from wherry.errors import Error, NotFound

_COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"


async def test_checkpoint_and_restore(lab: Lab) -> None:
    if shutil.which("criu") is None:
        pytest.skip("needs criu")
    container = await lab.shim(Ours, "sh", "-c", _COUNT)
    out, err = container.fifo("out"), container.fifo("err")
    screen, _ = Reader(out), Reader(err)
    await container.create(stdout=out, stderr=err)
    await container.start()
    await screen.until(b"5\n")
    image = lab.directory / "image"
    image.mkdir()
    options = typeurl.pack(CheckpointOptions(exit=True))
    try:
        await container.shim.call("checkpoint", id=container.id, path=str(image), options=options)
    except Error as error:
        # This kernel, or this CRIU, cannot.
        kept = container.bundle / "criu-dump.log"
        assert f"path= {kept} (" in error.message
        assert "Error" in kept.read_text()
        assert not (container.bundle / "work/criu-work").exists()
        seen = len(screen.data)
        await asyncio.sleep(0.3)
        assert len(screen.data) > seen
        assert (await container.state()).status == 2
        await container.stop()
        await container.end_shim()
        return
    await container.wait()
    await container.delete()
    last = int((await screen.ended()).split()[-1])
    # CRIU brings a process back to the cgroup that it was in, so this is the one to name, as ctr does.
    restored = lab.another(container, "sh", "-c", _COUNT, cgroup=container.id)
    out = restored.fifo("out")
    screen = Reader(out)
    await restored.create(stdout=out, stderr=out, checkpoint=str(image))
    await restored.start()
    await screen.until(f"{last + 2}\n".encode())
    assert int(screen.data.split()[0]) in (last, last + 1)
    assert (await restored.state()).status == 2
    assert (await restored.stats()).DESCRIPTOR.name == "Metrics"
    await restored.stop()
    await container.end_shim()


async def test_before_the_restore(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    assert await container.create(checkpoint=f"{lab.directory}/nowhere") == 0
    state = await container.state()
    assert (state.status, state.pid) == (1, 0)
    for call, text in (
        (container.pause, "cannot pause task in created state"),
        (container.resume, "cannot resume task in created state"),
        (lambda: container.checkpoint("/x"), "cannot checkpoint a task in created state"),
        (lambda: container.exec("e", "true"), "cannot exec in a created state"),
        (container.stats, "cgroup does not exist: not found"),
    ):
        with pytest.raises(Error, match=text):
            await call()
    with pytest.raises(NotFound, match="no such container"):
        await container.kill(9)
    with pytest.raises(Error, match="OCI runtime restore failed"):
        await container.start()
    assert not list(await container.pids())
    assert (await container.delete()).exit_status == 0
    await lab.sink.wait_for("/tasks/delete")
    assert lab.sink.topics == ["/tasks/create", "/tasks/delete"]
    await container.end_shim()


async def test_refusals(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await states.created(container)
    with pytest.raises(Error, match="cannot checkpoint a task in created state"):
        await container.checkpoint("/x")
    await container.kill()
    await container.wait()
    with pytest.raises(Error, match="cannot checkpoint a stopped container"):
        await container.checkpoint("/x")
    await container.delete()
    await container.end_shim()

"""Containers from create to delete, in each version, with each runtime, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.shim import bundle as bundles
from tests.shim.lab import Container, Lab, Reader, eventually
from tests.shim.peers import Ours, OursV1, OursV3, Shim
from wherry.api import typeurl
from wherry.api.runtime.linux.runctypes.runc_pb2 import CreateOptions
from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.api.types.types_pb2 import Mount
from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.errors import AlreadyExists, Error, InvalidArgument, NotFound
from wherry.shim.record import BUILTIN

OURS = pytest.mark.parametrize("kind", [Ours, OursV3, OursV1])
RUNTIMES = pytest.mark.parametrize("runtime", ["wherry-runc", "runc", "crun"])


def _runtime(container: Container, name: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the fields of a create request that choose a runtime; our own is chosen by naming none."""
    if name == BUILTIN:
        return {}
    binary = request.getfixturevalue(name)
    if container.v1:
        return {"runtime": binary}
    return {"options": typeurl.pack(Options(binary_name=binary))}


@OURS
@RUNTIMES
async def test_output_and_status(lab: Lab, kind: type[Shim], runtime: str, request: pytest.FixtureRequest) -> None:
    container = await lab.shim(kind, "sh", "-c", "echo out; echo err >&2; exit 42")
    out, err = container.fifo("out"), container.fifo("err")
    stdout, stderr = Reader(out), Reader(err)
    chosen = _runtime(container, runtime, request)
    assert await container.run_to_end(stdout=out, stderr=err, **chosen) == 42
    assert await stdout.ended() == b"out\n"
    assert await stderr.ended() == b"err\n"
    await container.end_shim()


@OURS
@RUNTIMES
async def test_all_operations(lab: Lab, kind: type[Shim], runtime: str, request: pytest.FixtureRequest) -> None:
    container = await lab.shim(kind, "sleep", "1000")
    pid = await container.create(**_runtime(container, runtime, request))
    assert (await container.state()).pid == pid
    await container.start()
    await container.pause()
    freezer = Path(f"/sys/fs/cgroup/freezer/{lab.namespace}/{container.id}/freezer.state")
    if freezer.exists():
        assert freezer.read_text().strip() == "FROZEN"
    await container.resume()
    await container.update({"pids": {"limit": 77}})
    limits = list(Path("/sys/fs/cgroup").glob(f"*/{lab.namespace}/{container.id}/pids.max"))
    assert [limit.read_text().strip() for limit in limits] == ["77"]
    assert [process.pid for process in await container.pids()] == [pid]
    await container.exec("e", "sh", "-c", "kill -TERM $$")
    await container.start("e")
    assert (await container.wait("e")).exit_status == 128 + 15
    await container.delete("e")
    await container.kill(15)
    # sleep as pid 1 takes no signal that it has no handler for.
    assert (await container.state()).status == 2
    await container.kill(9)
    assert (await container.wait()).exit_status == 137
    deleted = await container.delete()
    assert (deleted.pid, deleted.exit_status) == (pid, 137)
    assert deleted.exited_at.seconds > time.time() - 60
    await container.end_shim()


async def test_bundle_files(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    root = f"/run/containerd/runc/{lab.namespace}"
    options = Options(binary_name="/usr/sbin/runc", root="/run/containerd/runc", no_new_keyring=True)
    pid = await container.create(options=typeurl.pack(options))
    assert (container.bundle / "runtime").read_text() == "/usr/sbin/runc"
    assert json.loads((container.bundle / "options.json").read_text()) == {
        "binary_name": "/usr/sbin/runc",
        "root": "/run/containerd/runc",
        "no_new_keyring": True,
    }
    assert (container.bundle / "init.pid").read_text() == str(pid)
    assert os.path.isdir(f"{root}/{container.id}")
    await container.stop()
    await container.end_shim()


async def test_options_that_are_empty_are_none(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    assert await container.run_to_end(options=AnyMessage(type_url="containerd.runc.v1.Options")) == 0
    await container.end_shim()


async def test_v1_options(lab: Lab) -> None:
    container = await lab.shim(OursV1, "stat", "-L", "-c", "%u %g", "/dev/stdout", user=(1000, 1000))
    out, err = container.fifo("out"), container.fifo("err")
    stdout = Reader(out)
    Reader(err)
    options = CreateOptions(io_uid=1000, io_gid=1001, no_new_keyring=True)
    assert await container.run_to_end(stdout=out, stderr=err, options=typeurl.pack(options)) == 0
    assert await stdout.ended() == b"1000 1001\n"
    await container.end_shim()


async def test_no_mounts_means_that_the_spec_is_right(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "exit 5", root=str(lab.rootfs))
    assert await container.run_to_end(rootfs=[]) == 5
    await container.end_shim()


async def test_overlay(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "echo new > /tmp/file")
    for name in ("upper", "work"):
        (lab.directory / name).mkdir()
    layers = [f"lowerdir={lab.rootfs}", f"upperdir={lab.directory}/upper", f"workdir={lab.directory}/work"]
    assert await container.run_to_end(rootfs=[Mount(type="overlay", source="overlay", options=layers)]) == 0
    assert (lab.directory / "upper/tmp/file").read_text() == "new\n"
    await container.end_shim()


async def test_waits_are_answered_any_number_of_times(lab: Lab) -> None:
    container = await lab.shim(Ours, "sh", "-c", "exit 3")
    await container.create()
    waits = [asyncio.create_task(container.wait()) for _ in range(20)]
    await asyncio.sleep(0.1)
    assert not any(wait.done() for wait in waits)
    await container.start()
    statuses = {(await wait).exit_status for wait in waits}
    statuses |= {(await container.wait()).exit_status for _ in range(3)}
    assert statuses == {3}
    await container.delete()
    with pytest.raises(NotFound, match="container not created"):
        await container.wait()
    await container.end_shim()


async def test_a_wait_ends_when_a_container_that_never_ran_is_deleted(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    await container.create()
    wait = asyncio.create_task(container.wait())
    await asyncio.sleep(0.05)
    await container.delete()
    assert (await wait).exit_status == 0
    await container.end_shim()


async def test_a_container_that_never_ran_is_deleted_with_its_execs(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.exec("e", "sleep", "1000")
    await container.start("e")
    # Init ends only when the shim has collected the exec: it must not wait for the one and forget the other.
    await container.delete()
    await container.end_shim()


async def test_deletes_at_once(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    await container.create()
    await container.start()
    await container.wait()
    results = await asyncio.gather(*(container.delete() for _ in range(5)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, NotFound) for result in results if isinstance(result, BaseException))
    await lab.sink.wait_for("/tasks/delete")
    await container.end_shim()
    assert lab.sink.topics.count("/tasks/delete") == 1


async def test_starts_of_one_exec_at_once(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    await container.exec("e", "sleep", "1000")
    results = await asyncio.gather(*(container.start("e") for _ in range(4)), return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert {str(result) for result in results if isinstance(result, Error)} == {"cannot start a running process"}
    await container.stop()
    await container.end_shim()


async def test_a_caller_that_goes_away_leaves_its_create_whole(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.shim.call("connect", id=container.id)  # it serves: a call that it has not begun may be dropped
    create = asyncio.create_task(container.create())
    await asyncio.sleep(0.01)
    create.cancel()

    async def created() -> bool:
        try:
            return bool((await container.state()).pid)
        except NotFound:
            return False

    await eventually(created)
    await container.stop()
    await container.end_shim()


async def test_several_containers_share_a_shim(lab: Lab) -> None:
    first = await lab.shim(Ours, "sleep", "1000")
    others = [lab.another(first, "sh", "-c", f"exit {number}") for number in range(5)]
    await first.create()
    await first.start()
    assert await asyncio.gather(*(other.run_to_end() for other in others)) == list(range(5))
    await first.shim.call("shutdown", id=others[0].id)
    # It still holds one.
    assert (await first.state()).status == 2
    assert (await first.shim.call("connect", id="anything")).task_pid == 0
    assert (await first.shim.call("connect", id=first.id)).task_pid == (await first.state()).pid
    await first.stop()
    await first.end_shim()
    assert isinstance(first.shim, Ours)
    assert await first.shim.ended() == 0
    assert not first.bundle.with_suffix(".sock").exists()


async def test_an_id_in_use(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    with pytest.raises(Error, match=f"container {container.id}: already exists"):
        await container.create()
    await container.stop()
    await container.end_shim()


async def test_processes_of_a_shared_pid_namespace_end_with_init(lab: Lab) -> None:
    # The mark is an argument that nobody else has.
    mark = str(1_000_000 + time.time_ns() % 1_000_000)
    container = await lab.shim(
        Ours, "sh", "-c", f"setsid sleep {mark} & setsid sleep {mark} & sleep 0.2", own_pids=False
    )

    def sleepers() -> int:
        found = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found += (process / "cmdline").read_bytes() == f"sleep\0{mark}\0".encode()
            except OSError:
                continue
        return found

    await container.create()
    await container.start()
    await eventually(lambda: sleepers() == 2)
    assert (await container.wait()).exit_status == 0
    assert sleepers() == 0
    await container.delete()
    await container.end_shim()


async def test_execs_of_a_shared_pid_namespace_are_told_before_the_delete(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000", own_pids=False)
    await container.create()
    await container.start()
    for number in range(5):
        await container.exec(f"e{number}", "sleep", "1000")
        await container.start(f"e{number}")
    await container.kill(9)
    await container.wait()
    await container.delete()
    await container.end_shim()
    exits = {event.id for topic, event in lab.sink.events if topic == "/tasks/exit"}
    assert exits == {container.id, *(f"e{number}" for number in range(5))}
    assert lab.sink.topics[-1] == "/tasks/delete"


@OURS
async def test_names_of_execs(lab: Lab, kind: type[Shim]) -> None:
    container = await lab.shim(kind, "sleep", "1000")
    pid = await container.create()
    await container.start()
    # Its pid file is not to be the container's.
    await container.exec("init", "sh", "-c", "exit 4")
    await container.start("init")
    assert (await container.wait("init")).exit_status == 4
    await container.delete("init")
    assert (container.bundle / "init.pid").read_text() == str(pid)
    if container.v1:
        with pytest.raises(AlreadyExists):
            await container.exec(container.id, "true")
        with pytest.raises(InvalidArgument, match=r"^cannot delete init process with DeleteProcess$"):
            await container.shim.call("delete_process", id=container.id)
    else:
        await container.exec(container.id, "sh", "-c", "exit 5")
        await container.start(container.id)
        assert (await container.wait(container.id)).exit_status == 5
    await container.stop()
    await container.end_shim()


async def test_many_at_once(lab: Lab) -> None:
    first = await lab.shim(Ours, "sleep", "1000")
    containers = [lab.another(first, "sh", "-c", f"exit {number}") for number in range(24)]
    results = await asyncio.gather(*(container.run_to_end() for container in containers))
    assert results == list(range(24))
    await lab.sink.wait_for("/tasks/delete", 24)
    for container in containers:
        own = [topic for topic, event in lab.sink.events if event.container_id == container.id]
        assert own == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    await first.end_shim()


async def test_no_descriptor_is_lost(lab: Lab) -> None:
    keeper = await lab.shim(Ours, "true")
    before = 0
    for number in range(12):
        terminal = number % 3 == 2
        container = lab.another(keeper, "sh", "-c", "echo x", terminal=terminal)
        out, err, into = container.fifo("out"), container.fifo("err"), container.fifo("in")
        clients = [os.open(name, os.O_RDWR | os.O_NONBLOCK) for name in (out, err, into)]
        await container.create(stdin=into, stdout=out, stderr="" if terminal else err)
        await container.exec("bad", "/nope", stdin=into, stdout=err, stderr=err)
        await container.exec("unstarted", "true", stdin=into, stdout=err, stderr=err)
        with pytest.raises(Error):
            await container.start("bad")
        await container.start()
        await container.wait()
        await container.delete()
        for fd in clients:
            os.close(fd)
        if number == 2:
            before = keeper.shim.descriptors()
    assert keeper.shim.descriptors() == before
    await keeper.end_shim()


@pytest.mark.parametrize("tracer", [False, True])
async def test_execs_by_the_shim_itself(lab: Lab, tracer: bool) -> None:
    """With the built-in runtime: execs into a container that may trace them are made by a process in between."""
    more = ["CAP_SYS_PTRACE"] if tracer else []
    document = bundles.spec(lab.namespace, lab.names.id("c"), ("sleep", "1000"))
    capabilities = document["process"]["capabilities"]
    document["process"]["capabilities"] = {kind: [*names, *more] for kind, names in capabilities.items()}
    container = await lab.shim(Ours, spec=document)
    await container.create()
    await container.start()
    before = container.shim.descriptors()
    for round in range(3):
        names = [f"e{round}-{number}" for number in range(6)]
        for number, name in enumerate(names):
            await container.exec(name, "sh", "-c", f"exit {number}")
        pids = await asyncio.gather(*[container.start(name) for name in names])
        assert len(set(pids)) == len(names)
        statuses = [(await container.wait(name)).exit_status for name in names]
        assert statuses == list(range(len(names)))
        for name in names:
            await container.delete(name)
    with pytest.raises(Error, match=r"no-such-program.*not found"):
        await container.exec("bad", "no-such-program")
        await container.start("bad")
    await container.delete("bad")
    await container.exec("sleeper", "sleep", "1000")
    pid = await container.start("sleeper")
    assert pid in [process.pid for process in await container.pids()]
    await container.kill(9, "sleeper")
    assert (await container.wait("sleeper")).exit_status == 137
    await container.delete("sleeper")
    children = Path(f"/proc/{container.shim.pid}/task/{container.shim.pid}/children").read_text().split()
    assert len(children) == 1 and container.shim.descriptors() == before
    await container.stop()
    await container.end_shim()


async def test_filters_by_the_shim_itself(lab: Lab) -> None:
    """What compiles them has been imported before: the package may be another one when it is needed."""
    document = bundles.spec(lab.namespace, lab.names.id("c"), ("sleep", "1000"))
    number = 1 + os.getpid() % 1000  # so that it is in no cache
    rule = {"names": ["umount2"], "action": "SCMP_ACT_ERRNO", "errnoRet": number}
    document["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    container = await lab.shim(Ours, spec=document)
    await container.create()
    await container.start()
    await container.exec("e", "grep", "-q", "Seccomp:.2", "/proc/self/status")
    await container.start("e")
    assert (await container.wait("e")).exit_status == 0
    await container.delete("e")
    await container.stop()
    await container.end_shim()

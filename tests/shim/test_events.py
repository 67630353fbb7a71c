"""What a shim tells the daemon: in order, kept while the daemon is away."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.shim import states
from tests.shim.lab import Lab, eventually
from tests.shim.peers import Ours, OursV1, StockV2
from wherry.api import typeurl
from wherry.api.runtime.runc.v1.options_pb2 import Options


async def test_a_start_is_told_before_the_exit_of_a_short_process(lab: Lab) -> None:
    first = await lab.shim(Ours, "sleep", "1000")
    await first.create()
    await first.start()
    for number in range(20):
        container = lab.another(first, "true")
        await container.run_to_end()
        await lab.sink.wait_for("/tasks/delete", number + 1)
        own = [topic for topic, event in lab.sink.events if event.container_id == container.id]
        assert own == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    for number in range(20):
        await first.exec(f"e{number}", "true")
        await first.start(f"e{number}")
        await first.wait(f"e{number}")
    await eventually(lambda: lab.sink.topics.count("/tasks/exit") == 40)
    execs = [topic for topic, event in lab.sink.events if event.container_id == first.id][2:]
    assert execs == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"] * 20
    await first.stop()
    await first.end_shim()


async def test_exits_of_execs_come_before_that_of_init(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    for number in range(10):
        await container.exec(f"e{number}", "sleep", "1000")
    await asyncio.gather(*(container.start(f"e{number}") for number in range(10)))
    await container.stop()
    await container.end_shim()
    exits = [event for topic, event in lab.sink.events if topic == "/tasks/exit"]
    assert len(exits) == 11
    assert exits[-1].id == container.id
    assert {event.exit_status for event in exits} == {137}


async def test_init_killed_while_execs_start(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await container.start()
    for number in range(8):
        await container.exec(f"e{number}", "sleep", "1000")
    starts = [asyncio.create_task(container.start(f"e{number}")) for number in range(8)]
    await asyncio.sleep(0.02)
    await container.kill(9)
    await container.wait()
    results = await asyncio.gather(*starts, return_exceptions=True)
    await container.delete()
    await container.end_shim()
    events = lab.sink.events
    exits = [event.id for topic, event in events if topic == "/tasks/exit"]
    assert exits[-1] == container.id
    started = {event.exec_id for topic, event in events if topic == "/tasks/exec-started"}
    assert started == set(exits[:-1]) == {f"e{n}" for n, result in enumerate(results) if isinstance(result, int)}


@pytest.mark.parametrize("own_pids", [True, False], ids=["own pids", "shared pids"])
async def test_an_exec_that_ends_init_is_told_of_first(lab: Lab, own_pids: bool) -> None:
    """dockerd forgets a container's execs with its init: their clients would wait for ever."""
    # Both have ended by the time that the runtime returns.
    runtime = lab.directory / "slow-runc"
    runtime.write_text('#!/bin/sh\nrunc "$@" || exit $?\ncase " $* " in *" exec "*) sleep 0.3;; esac\n')
    runtime.chmod(0o755)
    script = "trap 'exit 3' USR1; sleep 1000 & wait"
    container = await lab.shim(Ours, "sh", "-c", script, own_pids=own_pids)
    await container.create(options=typeurl.pack(Options(binary_name=str(runtime))))
    pid = await container.start()
    await eventually(lambda: _traps(pid, signal.SIGUSR1))
    await container.exec("e", "sh", "-c", f"kill -USR1 {1 if own_pids else pid}")
    await container.start("e")
    assert (await container.wait()).exit_status == 3
    await lab.sink.wait_for("/tasks/exit", 2)
    await container.delete()
    await container.end_shim()
    assert [event.id for topic, event in lab.sink.events if topic == "/tasks/exit"] == ["e", container.id]


async def test_execs_that_share_a_pid_namespace_are_told_of_before_init(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000", own_pids=False)
    await container.create()
    await container.start()
    for number in range(3):
        await container.exec(f"e{number}", "sleep", "1000")
        await container.start(f"e{number}")
    await container.stop()
    await container.end_shim()
    exits = [event.id for topic, event in lab.sink.events if topic == "/tasks/exit"]
    assert sorted(exits[:-1]) == ["e0", "e1", "e2"] and exits[-1] == container.id


def _traps(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) & (1 << (number - 1)))


async def test_events_wait_for_a_daemon_that_is_away(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await container.create()
    await lab.sink.wait_for("/tasks/create")
    await lab.sink.stop()
    await container.start()
    await container.kill(9)
    await container.wait()
    await asyncio.sleep(0.3)
    await lab.sink.start()
    exit_ = await lab.sink.wait_for("/tasks/exit")
    assert exit_.exit_status == 137
    assert lab.sink.topics == ["/tasks/create", "/tasks/start", "/tasks/exit"]
    assert lab.sink.namespaces == {lab.namespace}
    await container.delete()
    await container.end_shim()


async def test_a_daemon_that_was_never_there_holds_up_nobody(lab: Lab) -> None:
    await lab.sink.stop()
    container = await lab.shim(Ours, "true")
    assert await container.run_to_end() == 0
    # The last events get some seconds, no more.
    await container.end_shim()
    assert isinstance(container.shim, Ours)
    assert await container.shim.ended() == 0


async def test_an_event_that_is_refused_does_not_hold_up_the_others(lab: Lab) -> None:
    lab.sink.refuse(5)
    container = await lab.shim(Ours, "true")
    assert await container.run_to_end() == 0
    await lab.sink.wait_for("/tasks/delete")
    # The first was given up after its fifth refusal.
    assert lab.sink.topics == ["/tasks/start", "/tasks/exit", "/tasks/delete"]
    await container.end_shim()


async def test_a_refusal_that_passes_costs_no_event(lab: Lab) -> None:
    lab.sink.refuse(3)
    container = await lab.shim(Ours, "true")
    assert await container.run_to_end() == 0
    await lab.sink.wait_for("/tasks/delete")
    assert lab.sink.topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    await container.end_shim()


async def test_the_first_version_publishes_exits_by_command(lab: Lab) -> None:
    container = await lab.shim(OursV1, "sh", "-c", "exit 12")
    await container.create()
    await container.exec("e", "sh", "-c", "exit 13")
    await container.start("e")
    await container.wait("e")
    await container.start()
    await container.wait()
    await lab.sink.wait_for("/tasks/exit", 2)
    assert [(event.id, event.exit_status) for _topic, event in lab.sink.events] == [("e", 13), (container.id, 12)]
    assert lab.sink.namespaces == {lab.namespace}
    await container.delete()
    await container.end_shim()


async def test_times_are_those_of_the_exit(lab: Lab) -> None:
    container = await lab.shim(Ours, "true")
    await container.create()
    await container.start()
    waited = await container.wait()
    event = await lab.sink.wait_for("/tasks/exit")
    assert typeurl.nanoseconds(event.exited_at) == typeurl.nanoseconds(waited.exited_at)
    assert event.exited_at == (await container.state()).exited_at == (await container.delete()).exited_at
    await container.end_shim()


async def test_out_of_memory(lab: Lab) -> None:
    for kind in (StockV2, Ours):
        before = len(lab.sink.events)
        script = "sleep 0.5; head -c 100000000 /dev/zero | tail"
        container = await lab.shim(kind, "sh", "-c", script, memory=8 << 20)
        await container.create()
        await container.start()
        await container.wait()
        await lab.sink.wait_for("/tasks/oom", 1 if kind is StockV2 else 2)
        await container.delete()
        await container.end_shim()
        topics = lab.sink.topics[before:]
        assert set(topics) == {"/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"}
        oom = [event for topic, event in lab.sink.events[before:] if topic == "/tasks/oom"]
        assert {event.container_id for event in oom} == {container.id}


async def test_a_pause_and_a_resume(lab: Lab) -> None:
    container = await lab.shim(Ours, "sleep", "1000")
    await states.paused(container)
    await container.resume()
    await lab.sink.wait_for("/tasks/resumed")
    assert lab.sink.topics == ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/resumed"]
    await container.stop()
    await container.end_shim()

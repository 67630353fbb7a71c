"""The zygote as a real process: what its children are like, and what becomes of those who ask when it dies."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import alive
from tests.shim.lab import eventually
from wherry.daemon.server import ZYGOTE_TARGETS
from wherry.errors import Unavailable, Unknown
from wherry.zygote.__main__ import WARM_ROUNDS
from wherry.zygote.client import Child, Zygote

TARGETS = tuple(f"tests.zygote.targets:{name}" for name in ("report", "lasting", "failing", "ending", "warmed"))
REPORT, LASTING, FAILING, ENDING, WARMED = TARGETS


#: Signals 32 and 33 are glibc's own: no program can set them, so they stay as whoever started the tests left them.
SETTABLE = ~(1 << 31 | 1 << 32)

#: Seconds.
_PAUSES = (0.1, 0.5, 2, 5, 10)


@pytest.fixture
async def zygote(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Zygote]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    gc.collect()  # what other tests dropped
    before = set(os.listdir("/proc/self/fd"))
    made = await Zygote.start(TARGETS)
    pid = made.pid
    yield made
    await made.close()
    assert not alive(pid)
    assert set(os.listdir("/proc/self/fd")) <= before


async def gone(pid: int) -> None:
    await eventually(lambda: not alive(pid))


async def ended(child: Child) -> None:
    await asyncio.to_thread(select.select, [child.pidfd], [], [], 30)
    assert select.select([child.pidfd], [], [], 0)[0], "the child does not end"
    os.close(child.pidfd)


async def report(zygote: Zygote, target: str = REPORT, title: str = "", **arguments: Any) -> dict[str, Any]:
    read, write = os.pipe()
    with os.fdopen(read) as file:
        try:
            child = await zygote.fork(target, arguments, [write], title=title)
        finally:
            os.close(write)
        words: dict[str, Any] = json.loads(await asyncio.to_thread(file.read))
    assert child.pid == words["pid"]
    await ended(child)
    return words


async def test_a_child_is_clean(zygote: Zygote) -> None:
    words = await report(zygote, name="value")
    assert words["arguments"] == {"name": "value"}
    assert words["fds"] == [3]
    assert words["open"] == [0, 1, 2, 3]
    assert words["inheritable"] == []
    assert words["stdio"] == ["/dev/null"] * 3
    assert words["ppid"] == 1
    assert words["session"] not in (os.getsid(0), os.getsid(zygote.pid))
    assert words["group"] == words["session"]
    assert words["umask"] == 0o022
    assert {int(words[mask], 16) & SETTABLE for mask in ("ignored", "caught", "blocked")} == {0}
    assert words["threads"] == "1"
    assert words["modules"] == []
    assert words["dies_with_parent"] == 0


async def test_a_child_keeps_what_is_for_its_target_to_change(zygote: Zygote) -> None:
    words = await report(zygote)
    assert words["oom_score"] == Path("/proc/self/oom_score_adj").read_text().strip()


async def test_a_title_is_what_ps_shows(zygote: Zygote) -> None:
    words = await report(zygote, title="containerd-shim-wherry-v2 -namespace n -id i")
    assert words["command"] == ["containerd-shim-wherry-v2", "-namespace", "n", "-id", "i"]
    assert words["name"] == "containerd-shim"


async def test_a_long_title_fits(zygote: Zygote) -> None:
    """Namespace and id have 76 characters at most, an address 107."""
    title = f"containerd-shim-wherry-v2 -namespace {'n' * 76} -id {'i' * 76} -address /{'a' * 106}"
    assert " ".join((await report(zygote, title=title))["command"]) == title


async def test_descriptors_are_renumbered_in_order(zygote: Zygote) -> None:
    read, write = os.pipe()
    others = [os.open("/dev/zero", os.O_RDONLY) for _ in range(3)]
    child = await zygote.fork(REPORT, {}, [write, *others])
    os.close(write)
    for fd in others:
        os.close(fd)
    with os.fdopen(read) as file:
        words = json.load(file)
    await ended(child)
    assert words["fds"] == [3, 4, 5, 6]
    assert words["open"] == [0, 1, 2, 3, 4, 5, 6]


async def test_children_do_not_share_their_random_numbers(zygote: Zygote) -> None:
    words = [await report(zygote) for _ in range(3)]
    assert len({each["random"] for each in words}) == 3
    assert len({each["temporary"] for each in words}) == 3
    assert len({each["loaded_at"] for each in words}) == 1, "the module was imported once"


async def test_many_at_once(zygote: Zygote) -> None:
    words = await asyncio.gather(*(report(zygote, index=index) for index in range(20)))
    assert [each["arguments"]["index"] for each in words] == list(range(20))
    assert len({each["pid"] for each in words}) == 20


async def report_warmed(zygote: Zygote, **arguments: Any) -> dict[str, Any]:
    """Ask when there has been time to make a child ready, which takes a busy machine longer."""
    for pause in _PAUSES:
        await asyncio.sleep(pause)
        words = await report(zygote, WARMED, **arguments)
        if words["counter"] > WARM_ROUNDS:
            return words
    raise AssertionError("no child was warmed")


async def test_a_warm_child_is_ready_before_it_is_asked(zygote: Zygote) -> None:
    first = await report_warmed(zygote, number=1)
    await eventually(lambda: bool(children_named(zygote.pid)))
    asked_at = time.monotonic()
    second = await report_warmed(zygote, number=2)
    for words in (first, second):
        assert words["counter"] == WARM_ROUNDS + 1  # in the zygote, and once in each child
        assert words["open"] == [0, 1, 2, 3]
        assert words["ppid"] == 1
    started = int(Path(f"/proc/{zygote.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert started / os.sysconf("SC_CLK_TCK") <= asked_at
    assert [first["arguments"], second["arguments"]] == [{"number": 1}, {"number": 2}]


async def test_a_child_that_is_waited_for_is_not_warmed_first(zygote: Zygote) -> None:
    words = await asyncio.gather(*(report(zygote, WARMED) for _ in range(20)))
    assert WARM_ROUNDS in {each["counter"] for each in words}


async def test_a_dead_child_ahead_of_its_time_is_replaced(zygote: Zygote) -> None:
    for pid in children_named(zygote.pid):
        os.kill(pid, signal.SIGKILL)
        await gone(pid)
    assert (await report_warmed(zygote))["counter"] == WARM_ROUNDS + 1


def children_named(zygote: int) -> list[int]:
    """Return the children that wait for a request: init's, with the zygote's command line."""
    command = Path(f"/proc/{zygote}/cmdline").read_bytes()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if int(entry.name) != zygote and (entry / "cmdline").read_bytes() == command:
                sockets = {os.readlink(link) for link in (entry / "fd").iterdir()}
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == 1 and any(link.startswith("socket:") for link in sockets):
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


async def test_a_child_that_ends_badly_is_its_own_affair(zygote: Zygote) -> None:
    for target in (FAILING, ENDING):
        await ended(await zygote.fork(target, {}))
    assert (await report(zygote))["arguments"] == {}


async def test_what_cannot_be_is_told(zygote: Zygote) -> None:
    with pytest.raises(Unknown, match="no target os:system"):
        await zygote.fork("os:system", {})
    with pytest.raises(Unknown, match="a request of"):
        await zygote.fork(REPORT, {"long": "x" * 100_000})
    assert (await report(zygote))["arguments"] == {}


async def test_a_module_that_cannot_be_imported_is_told() -> None:
    with pytest.raises(Unavailable, match="no_such_module:main"):
        await Zygote.start(["no_such_module:main"])


async def test_a_dead_zygote_is_replaced_and_its_children_live(zygote: Zygote) -> None:
    read, write = os.pipe()
    lasting = await zygote.fork(LASTING, {}, [read])
    os.close(read)
    first = zygote.pid
    os.kill(first, signal.SIGKILL)
    assert (await report(zygote))["ppid"] == 1
    assert zygote.pid != first
    assert alive(lasting.pid)
    os.close(write)
    await ended(lasting)


async def test_many_who_ask_a_dead_zygote_get_one_new_one(zygote: Zygote) -> None:
    pid = zygote.pid
    os.kill(pid, signal.SIGKILL)
    await gone(pid)  # else the child ahead answers one of them
    words = await asyncio.gather(*(report(zygote, index=index) for index in range(5)))
    assert [each["arguments"]["index"] for each in words] == list(range(5))
    assert len({each["loaded_at"] for each in words}) == 1


async def test_a_stopped_zygote_is_replaced(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.zygote.client._FORK_TIMEOUT", 4.0)
    monkeypatch.setattr("wherry.zygote.client._END_TIMEOUT", 0.5)
    first = zygote.pid
    await eventually(lambda: bool(children_named(first)))
    os.kill(first, signal.SIGSTOP)
    await report(zygote)
    assert zygote.pid == first, "the child ahead answers by itself"
    assert (await report(zygote))["arguments"] == {}
    assert zygote.pid != first
    assert not alive(first)


async def test_a_caller_that_goes_away_takes_its_child_along_and_nobody_elses(zygote: Zygote) -> None:
    """An answer belongs to one request, whoever still waits for it."""
    read, write = os.pipe()
    asking = asyncio.ensure_future(zygote.fork(LASTING, {}, [read]))
    await asyncio.sleep(0)  # the request is sent, the answer not read
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    os.close(read)
    words = await asyncio.gather(*(report(zygote, index=index) for index in range(3)))
    assert [each["arguments"]["index"] for each in words] == [0, 1, 2]
    # The reader's end was with the child alone.
    poll = select.poll()
    poll.register(write, 0)
    await eventually(lambda: bool(poll.poll(0)))
    os.close(write)


async def test_a_zygote_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, sys
from wherry.zygote.client import Zygote
async def main():
    zygote = await Zygote.start(["{WARMED}", "{LASTING}"])
    read, write = os.pipe()
    child = await zygote.fork("{LASTING}", {{}}, [read])
    print(zygote.pid, child.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        pid, child = map(int, process.stdout.readline().split())
        ahead = children_named(pid)
        assert alive(child)
        process.kill()
    for each in (pid, *ahead):
        await gone(each)
    await gone(child)  # its descriptor's other end is gone too


async def test_no_descriptor_stays_in_the_zygote(zygote: Zygote) -> None:
    await report(zygote)
    await report(zygote, WARMED)
    await report(zygote)

    def held() -> int:
        return len(os.listdir(f"/proc/{zygote.pid}/fd"))

    before = held()
    for _ in range(5):
        await report(zygote)
        await report(zygote, WARMED)
        await ended(await zygote.fork(FAILING, {}))
    await report(zygote)
    await eventually(lambda: held() <= before)  # what the last fork was asked with goes after its answer


async def test_a_refused_fork_is_told_and_the_zygote_lives_on(zygote: Zygote) -> None:
    """No process to be had, as with pids.max: the request fails, the next one that can be served is."""
    await report(zygote)
    await eventually(lambda: bool(children_named(zygote.pid)))
    pid = zygote.pid
    before = (
        subprocess.run(
            ["prlimit", "--pid", str(pid), "--nofile", "--raw", "--noheadings", "-o", "SOFT"],
            capture_output=True,
            check=True,
        )
        .stdout.decode()
        .strip()
    )
    held = len(os.listdir(f"/proc/{pid}/fd"))
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={held + 2}:"], check=True)
    await report(zygote)  # the child ahead was there before
    with pytest.raises(Unknown, match="zygote: OSError"):
        await report(zygote)
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={before}:"], check=True)
    assert (await report(zygote))["arguments"] == {}
    assert zygote.pid == pid
    assert (await report_warmed(zygote))["counter"] == WARM_ROUNDS + 1


def _memory(pid: int) -> dict[str, int]:
    """Return what a process has, in KiB, shared with children or not: proc(5), smaps_rollup and status."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    lines += [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmSize")]
    return {name: int(line.split()[1]) for line in lines if (name := line.split(":")[0]) in _SIZES}


_SIZES = ("Rss", "Anonymous", "Swap", "VmSize")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.long)])
async def test_a_zygote_does_not_grow(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the daemon's own targets, whose warming every child goes through."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    zygote = await Zygote.start((*ZYGOTE_TARGETS, ENDING))
    try:

        def look() -> dict[str, Any]:
            children = Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().split()
            held = len(os.listdir(f"/proc/{zygote.pid}/fd"))
            return {**_memory(zygote.pid), "fds": held, "children": children}

        for _ in range(50):
            await ended(await zygote.fork(ENDING, {}))
        # The process between the zygote and its next child has ended as well.
        await eventually(lambda: bool(children_named(zygote.pid)) and not look()["children"])
        pid, before = zygote.pid, look()
        for _ in range(count):
            await ended(await zygote.fork(ENDING, {}))
        await eventually(lambda: bool(children_named(zygote.pid)) and not look()["children"])
        await eventually(lambda: look()["fds"] <= before["fds"])
        after = look()
        print(f"after {count} forks: {before} {after}")
        assert zygote.pid == pid
        assert after["children"] == before["children"] == []
        # A page here and there, whatever the number of forks.
        assert all(after[name] - before[name] <= 64 for name in _SIZES), (before, after)
    finally:
        await zygote.close()

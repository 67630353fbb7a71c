"""A cgroup's life on this host's own hierarchies, whichever they are."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.runc.cgroups.conftest import Processes, tops
from wherry.errors import InvalidArgument, Unknown
from wherry.runc.cgroups.cgroup import load_cgroup, new_cgroup
from wherry.runc.cgroups.hierarchies import own_cgroups

_MEMORY = 32 << 20


def test_every_hierarchy_has_it_and_the_process(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a/b", "id", systemd=False, rootless=False)
    assert not cgroup.exists()
    cgroup.create()
    pid = processes.sleep()
    cgroup.join(pid)
    assert {Path(path) for path in cgroup.paths.values()} == {top / f"{parent[1:]}/a/b" for top in tops()}
    assert set(own_cgroups(pid).values()) == {f"{parent}/a/b"}
    assert cgroup.pids() == [pid]
    assert cgroup.exists()
    processes.end()
    cgroup.delete()
    assert not cgroup.exists()
    cgroup.delete()
    load_cgroup(cgroup.paths).delete()
    assert cgroup.pids() == []
    assert not cgroup.frozen()
    new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False).delete()


def test_what_exists_is_joined_as_it_is(parent: str, processes: Processes) -> None:
    first = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    first.create()
    first.set({"pids": {"limit": 100}})
    resident = processes.sleep()
    first.join(resident)
    second = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    second.create()
    pid = processes.sleep()
    second.join(pid)
    assert sorted(second.pids()) == sorted([resident, pid])
    pids = Path(second.paths.get("pids") or second.paths[""], "pids.max")
    assert pids.read_text() == "100\n"
    processes.end()
    second.delete()


def test_cgroups_below_it(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    inner = new_cgroup(f"{parent}/a/x/y", "id", systemd=False, rootless=False)
    inner.create()
    loaded = load_cgroup(cgroup.paths)
    pid = processes.sleep()
    loaded.join(pid, ["x/y"])
    assert inner.pids() == cgroup.pids() == [pid]
    with pytest.raises(Unknown, match="is not a sub cgroup path"):
        loaded.join(pid, ["../.."])
    with pytest.raises(Unknown, match="missing <controller>: prefix"):
        loaded.join(pid, ["x", "y"])
    with pytest.raises(Unknown, match="unknown controller nothing"):
        loaded.join(pid, ["nothing:x"])
    with pytest.raises(Unknown, match="error adding pid"):
        loaded.join(pid, ["absent"])
    with pytest.raises(Unknown, match="Failed to remove paths"):
        cgroup.delete()
    processes.end()
    cgroup.delete()


def test_a_process_on_its_way_out_is_waited_for(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    pid = processes.sleep()
    cgroup.join(pid)
    ending = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
    ending.start()
    cgroup.delete()
    ending.join()


def test_freeze(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    process = processes.start("sh", "-c", "while read x; do echo $x; done")
    cgroup.join(process.pid)
    assert process.stdin is not None and process.stdout is not None
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.freeze()
    process.stdin.write("1\n")
    process.stdin.flush()
    assert not select.select([process.stdout], [], [], 0.2)[0]
    cgroup.thaw()
    assert not cgroup.frozen()
    assert process.stdout.readline() == "1\n"
    processes.end()
    cgroup.delete()


def test_kill_of_processes_that_fork_all_the_time(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    cgroup.set({"pids": {"limit": 50}})
    # Each child lives on when its parent goes.
    bomb = processes.start("sh", "-c", "read x; f() { sleep 0.001; f & f & }; f; wait")
    cgroup.join(bomb.pid)
    assert bomb.stdin is not None
    bomb.stdin.write("\n")
    bomb.stdin.flush()
    deadline = time.monotonic() + 10
    while len(cgroup.pids()) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    cgroup.kill(signal.SIGKILL)
    bomb.wait()
    cgroup.delete()


def test_signal_for_all(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    several = [processes.start("sleep", "1000") for _ in range(3)]
    for process in several:
        cgroup.join(process.pid)
    cgroup.kill(signal.SIGTERM)
    assert [process.wait() for process in several] == [-signal.SIGTERM] * 3
    cgroup.delete()


def test_news_of_oom(parent: str, processes: Processes) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    cgroup.set({"memory": {"limit": _MEMORY, "swap": _MEMORY}})
    notice = cgroup.oom()
    poll = select.poll()
    poll.register(notice.fileno(), notice.events)
    while poll.poll(0):  # memory.events is news once when it is first looked at
        assert notice.read() is False
    hungry = processes.start("sh", "-c", "read x; head -c 200M /dev/zero | tail -n 1 >/dev/null")
    cgroup.join(hungry.pid)
    assert hungry.stdin is not None
    hungry.stdin.write("\n")
    hungry.stdin.flush()
    told = False
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        if poll.poll(1000):
            told = notice.read() is True
    assert told
    processes.end()
    cgroup.delete()
    deadline = time.monotonic() + 10
    while (gone := notice.read()) is not None and time.monotonic() < deadline:
        poll.poll(100)
    assert gone is None
    notice.close()


def test_only_what_is_named_is_changed(parent: str) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    cgroup.set({"memory": {"limit": _MEMORY, "swap": 2 * _MEMORY}, "pids": {"limit": 7}, "cpu": {"shares": 512}})
    before = _limits(cgroup.paths)
    loaded = load_cgroup(cgroup.paths)
    loaded.set({})
    loaded.set({"memory": {"limit": 0}, "pids": {"limit": 0}, "cpu": {"shares": 0, "quota": 0, "cpus": ""}})
    assert _limits(cgroup.paths) == before
    loaded.set({"pids": {"limit": 8}})
    changed = {path for path, value in _limits(cgroup.paths).items() if value != before[path]}
    assert {os.path.basename(path) for path in changed} == {"pids.max"}
    loaded.set({"pids": {"limit": -1}})
    assert Path(cgroup.paths.get("pids") or cgroup.paths[""], "pids.max").read_text() == "max\n"
    cgroup.delete()


def _limits(paths: dict[str, str]) -> dict[str, str]:
    names = "pids.max memory.max memory.swap.max cpu.weight cpu.max memory.limit_in_bytes cpu.shares".split()
    names += "memory.memsw.limit_in_bytes devices.list cpuset.cpus".split()
    files = [Path(path, name) for path in set(paths.values()) for name in names]
    return {str(file): file.read_text() for file in files if file.exists()}


def test_refusals_name_the_file(parent: str) -> None:
    cgroup = new_cgroup(f"{parent}/a", "id", systemd=False, rootless=False)
    cgroup.create()
    cgroup.set({})
    loaded = load_cgroup(cgroup.paths)
    with pytest.raises(Unknown, match=r'^failed to write "4096": write /sys/fs/cgroup/.*/cpuset.cpus: '):
        loaded.set({"cpu": {"cpus": "4096"}})
    cgroup.delete()
    with pytest.raises(Unknown, match=r"^open /sys/fs/cgroup/.*/pids.max: no such file or directory$"):
        loaded.set({"pids": {"limit": 5}})


@pytest.mark.parametrize("path", ["/../../../x", "/x/../../..//./x", "/x/."])
def test_paths_lead_nowhere_else(path: str) -> None:
    paths = new_cgroup(path, "id", systemd=False, rootless=False).paths
    assert {Path(found) for found in paths.values()} == {top / "x" for top in tops()}


def test_nul_in_a_path() -> None:
    with pytest.raises(InvalidArgument):
        new_cgroup("/a\0b", "id", systemd=False, rootless=False)

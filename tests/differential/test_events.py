"""`ctr events`: what every action announces, in which order, with which fields."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.differential.transcript import Side, differential
from tests.harness.archives import BUSYBOX

V1, V2 = "io.containerd.runtime.v1.linux", "io.containerd.runc.v2"

both_runtimes = pytest.mark.parametrize("runtime", [V2, V1], ids=["v2", "v1"])


@contextmanager
def events(side: Side, *filters: str, runtime: str = V2, exits: int = 0) -> Iterator[None]:
    """Write down the events of this namespace that what the block does causes, `exits` of them exits of processes."""
    listening = side.start("events", *(filters or (f"namespace=={side.namespace}",)))
    try:
        # Nothing tells when the subscription stands, so a mark is made until one comes through.
        side.until(lambda: _mark(side, "begin") and listening.heard("begin", 0.2), "no event comes")
        yield
        for _ in range(exits):
            listening.expect("/tasks/exit ", 30)
        _mark(side, "end")
        listening.expect('"end"', 30)
    finally:
        listening.end()
    first = max(number for number, line in enumerate(listening.lines) if '"begin"' in line)
    lines = [line for line in listening.lines[first + 1 :] if '"end"' not in line]
    side.note_output("events of runtime v1" if runtime == V1 else "events", lines)


def _mark(side: Side, mark: str) -> bool:
    side.quietly("namespaces", "label", side.namespace, f"mark={mark}")
    return True


@differential
def test_namespaces(side: Side) -> None:
    other = side.other_namespace("other")
    with events(side, f"namespace=={side.namespace}", f"namespace=={other}"):
        # One at a time: ctr sets several in the random order of a Go map.
        side.quietly("namespaces", "label", side.namespace, "a=1")
        side.quietly("namespaces", "label", side.namespace, "b=2")
        side.quietly("namespaces", "label", side.namespace, "a=")
        side.quietly("namespaces", "create", other, "x=y")
        side.quietly("namespaces", "rm", other)


@differential
def test_images(side: Side, busybox_archive: Path) -> None:
    with events(side):
        side.quietly("images", "import", busybox_archive)
        side.quietly("images", "import", busybox_archive)
        side.quietly("images", "label", BUSYBOX, "a=1")
        side.quietly("images", "tag", BUSYBOX, "example.org/b:1")
        side.quietly("images", "rm", "example.org/b:1")


@differential
def test_snapshots(side: Side) -> None:
    with events(side):
        side.quietly("snapshots", "prepare", "active")
        side.quietly("snapshots", "label", "active", "a=1")
        side.quietly("snapshots", "commit", "base", "active")
        side.quietly("snapshots", "prepare", "top", "base")
        side.quietly("snapshots", "rm", "top")


@differential
def test_containers(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    with events(side):
        side.quietly("containers", "create", "--label", "a=1", BUSYBOX, side.id("box"))
        side.quietly("containers", "label", side.id("box"), "b=2")
        side.quietly("containers", "rm", side.id("box"))


@differential
def test_leases_and_content_are_silent(side: Side) -> None:
    with events(side):
        side.quietly("leases", "create", "--id", "one")
        side.quietly("content", "ingest", "ref", input=b"data")
        side.quietly("leases", "rm", "one")


@both_runtimes
@differential
def test_run(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    with events(side, runtime=runtime, exits=1):
        side.ctr("run", "--rm", "--runtime", runtime, BUSYBOX, side.id("box"), "exits", "3")


@both_runtimes
@differential
def test_run_that_fails(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    with events(side, runtime=runtime, exits=0):
        side.ctr("run", "--rm", "--runtime", runtime, BUSYBOX, side.id("box"), "/absent")


@both_runtimes
@differential
def test_life_of_a_task(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    with events(side, runtime=runtime, exits=2):
        side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, box, "sleep", "1000")
        side.quietly("tasks", "pause", box)
        side.quietly("tasks", "resume", box)
        side.ctr("tasks", "exec", "--exec-id", "e1", box, "exits", "4")
        side.ctr("tasks", "exec", "--exec-id", "e2", box, "/absent")
        side.quietly("tasks", "kill", "--signal", "KILL", box)
        side.wait_for(box, "STOPPED")
        side.quietly("tasks", "rm", box)
        side.quietly("containers", "rm", box)


@both_runtimes
@differential
def test_execs_exit_before_the_container(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, box, "sleep", "1000")
    side.quietly("tasks", "exec", "--detach", "--exec-id", "e1", box, "sleep", "1000")
    with events(side, runtime=runtime, exits=2):
        side.quietly("tasks", "kill", "--signal", "KILL", box)
        side.wait_for(box, "STOPPED")
        side.quietly("tasks", "rm", box)


@differential
def test_filters(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    update = 'topic=="/namespaces/update"'
    with events(side, f"namespace=={side.namespace},topic~=/containers/", f"namespace=={side.namespace},{update}"):
        side.quietly("containers", "create", BUSYBOX, side.id("box"))
        side.quietly("containers", "rm", side.id("box"))
    with events(
        side, f"namespace=={side.namespace},event.id=={side.id('box')}", f"namespace=={side.namespace},{update}"
    ):
        side.quietly("containers", "create", BUSYBOX, side.id("box"))
        side.quietly("containers", "create", BUSYBOX, side.id("other"))
    side.ctr("events", "bad filter")
    side.ctr("events", "topic==/unquoted/path")

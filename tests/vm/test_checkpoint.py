"""Checkpoint and restore through the daemons, as ctr asks for it: containerd's transcript is wherryd's."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.differential.transcript import Side, differential, same_length_directories
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd

pytestmark = pytest.mark.vm

_V2, _V1 = "io.containerd.runc.v2", "io.containerd.runtime.v1.linux"

_COUNT = "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"

_EXEC = ("tasks", "exec", "--exec-id", "look")


def _count(side: Side, id: str) -> int:
    """Return how far a container has counted; a moment later if it is just writing that."""
    for _ in range(20):
        if text := side.quietly(*_EXEC, id, "cat", "/count").text.strip():
            return int(text)
    raise AssertionError("it does not count")


def _goes_on(side: Side, id: str, after: int) -> None:
    deadline = time.monotonic() + 30
    while _count(side, id) <= after:
        assert time.monotonic() < deadline, "it does not count on"


def _image(side: Side, name: str) -> dict[str, Any]:
    """Write down what an image of a checkpoint is made of; return its index."""
    row = next(line.split() for line in side.quietly("images", "ls").text.splitlines() if line.startswith(f"{name} "))
    index: dict[str, Any] = json.loads(side.quietly("content", "get", row[2]).text)
    lines = [f"{row[1]} {row[-1]} {sorted(index.keys() - {'manifests'})} {index.get('annotations')}"]
    for entry in index["manifests"]:
        lines.append(f"{entry['mediaType']} {entry.get('platform')} {entry.get('annotations')}")
        blob = side.quietly("content", "get", entry["digest"]).output
        if "tar" in entry["mediaType"]:
            lines += _members(blob)
        elif entry["mediaType"].endswith("proto"):
            lines += [f"  {text}" for text in re.findall("[ -~]{12,}", side.normal(blob.decode(errors="replace")))]
    side.note(f"image of {'a task' if 'checkpoint/' in name else 'a container'}", lines)
    return index


def _members(blob: bytes) -> list[str]:
    """Return an archive's members: CRIU names images after pids and devices, and some are not always there."""
    with tarfile.open(fileobj=io.BytesIO(blob)) as archive:
        return sorted(
            {
                f"  {re.sub('[0-9]+', '<#>', member.name)} {member.type!r} {member.mode:o} {member.uid} {member.gid}"
                f" {member.uname}{member.gname}"
                for member in archive
            }
        )


def _run(side: Side, label: str, runtime: str, before: str = "") -> str:
    """Start a container that counts; return its id."""
    id = side.id(label)
    side.quietly("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, id, "sh", "-c", before + _COUNT)
    _goes_on(side, id, 1)
    return id


def _end(side: Side, id: str) -> None:
    # No --force: it kills all that is in the cgroup, where a restored container is beside the one that it was.
    side.quietly("tasks", "kill", "--signal", "KILL", id)
    side.wait_for(id, "STOPPED")
    side.quietly("tasks", "rm", id)
    side.quietly("containers", "rm", id)


@contextlib.contextmanager
def _events(side: Side, deleted: int) -> Iterator[None]:
    """Write down the events, to those of so many deleted containers."""
    events = side.start("events")
    try:
        yield
        for _ in range(deleted):
            events.expect("/containers/delete", 30)
        side.note_output("events", [_without_times(line) for line in events.lines if '"look"' not in line])
    finally:
        events.end()


def _container_and_task(side: Side, runtime: str) -> None:
    """Checkpoint a container that goes on, and restore another from it."""
    box, back, image = _run(side, "box", runtime), side.id("back"), f"{side.id('image')}:1"
    side.ctr("containers", "checkpoint", "--task", "--rw", "--image", box, image)
    side.ctr("tasks", "ls")
    at_least = _count(side, box)
    _image(side, image)
    _goes_on(side, box, at_least)
    _end(side, box)
    side.ctr("containers", "restore", "--live", "--rw", back, image)
    side.ctr("tasks", "ls")
    side.ctr("containers", "ls")
    # It reads what was written before the checkpoint, and goes on from there: a new one would begin with 1.
    _goes_on(side, back, 2)
    side.ctr(*_EXEC, back, "sh", "-c", "test $(cat /count) -lt 10000 && ls /proc/1/fd")
    _end(side, back)


def _task(side: Side, runtime: str) -> None:
    """Checkpoint tasks: one that ends with it, one into a folder, and one that CRIU can't."""
    box = _run(side, "ends", runtime)
    result = side.ctr("tasks", "checkpoint", "--exit", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "ls")
    _image(side, result.text.strip())
    side.ctr("tasks", "rm", box)
    side.ctr("containers", "rm", box)

    box = _run(side, "stays", runtime)
    images, work = side.directory / "images", side.directory / "work"
    images.mkdir()
    side.ctr("tasks", "checkpoint", "--image-path", images, "--work-path", work, box)
    side.ctr("tasks", "ls")
    side.ctr("images", "ls", "-q")
    side.note("images", sorted({re.sub("[0-9]+", "<#>", path.name) for path in images.iterdir()}))
    side.note("work", sorted(path.name for path in work.iterdir()))
    _goes_on(side, box, _count(side, box))
    _end(side, box)

    # A big file that is open and has no name any more is what CRIU does not keep.
    box = _run(side, "cannot", runtime, before="exec 3>/big; dd if=/dev/zero bs=1M count=2 >&3; rm /big; ")
    refused = side.daemon.ctr("tasks", "checkpoint", "--exit", box, namespace=side.namespace)
    assert side.daemon.kind == "containerd" or "dump ghost file" in refused.error_text, refused.error_text
    # CRIU's own reason is ours alone.
    side.note(f"refused with {refused.code}", re.sub(r"(criu-dump.log) \(.*\)", r"\1", refused.error_text))
    side.ctr("tasks", "ls")
    _goes_on(side, box, _count(side, box))
    _end(side, box)


def _without_times(line: str) -> str:
    """Return an event as topic and content, without what differs from run to run."""
    _date, _time, _zone, _utc, _namespace, topic, content = line.split(" ", 6)
    content = re.sub(r'"(exited_at|timestamp)":"[^"]*"', r'"\1":"<time>"', content)
    content = re.sub(r'"pid":\d+', '"pid":<pid>', content)
    content = re.sub(r"/[-/\w]*ctrd-checkpoint\w+", "<images>", content)
    content = re.sub(r"fifo/\d+/", "fifo/<#>/", content)
    return f"{topic} {re.sub(r'-parent-view-[-_A-Za-z0-9]+', '-parent-view-<#>', content)}"


@pytest.mark.long
@differential
def test_container_and_task(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    with _events(side, 2):
        _container_and_task(side, _V2)


@pytest.mark.long
@differential
def test_task(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    with _events(side, 3):
        _task(side, _V2)


@pytest.mark.long
def test_runtime_v1(wherryd: Wherryd, busybox_archive: Path, tmp_path: Path) -> None:
    """containerd's own runtime v1 knows no cgroup v2. wherryd's says under it what it says under runtime v2."""
    transcripts = []
    for runtime, directory in zip((_V2, _V1), same_length_directories(tmp_path), strict=True):
        side = Side(wherryd, directory)
        side.quietly("images", "import", busybox_archive)
        _container_and_task(side, runtime)
        lines = [re.sub(" +", " ", line.replace(runtime, "<runtime>")) for line in side.transcript]
        # runtime v2's containers have options, which are kept with them.
        transcripts.append([line for line in lines if "runtime.options+proto" not in line and "Options" not in line])
    assert transcripts[0] == transcripts[1]


@pytest.mark.long
def test_two_of_one_container(wherryd: Wherryd, busybox_archive: Path, tmp_path: Path) -> None:
    """containerd 1.6 refuses the second (`content … already exists`): it holds the same specification."""
    side = Side(wherryd, tmp_path)
    side.quietly("images", "import", busybox_archive)
    box = _run(side, "box", _V2)
    for name in ("one:1", "two:1"):
        side.quietly("containers", "checkpoint", "--task", box, name)
        types = [entry["mediaType"] for entry in _image(side, name)["manifests"]]
        assert "application/vnd.containerd.container.criu.checkpoint.criu.tar" in types
    _end(side, box)

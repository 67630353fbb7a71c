"""wherry prune, against daemons that collect on demand alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Wherry
from tests.conftest import need_root
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Containerd, Daemon, Wherryd

_CONTAINERD = """
[plugins."io.containerd.gc.v1.scheduler"]
  pause_threshold = 0.0000001
  mutation_threshold = 0
  startup_delay = "1000h"
"""
_WHERRYD = '[gc]\npause_threshold = 0.0000001\nmutation_threshold = 0\nstartup_delay = "1000h"\n'


@pytest.fixture(params=["wherryd", "containerd"])
def hoarder(request: pytest.FixtureRequest) -> Iterator[Wherry]:
    need_root("ctr", *(["containerd"] if request.param == "containerd" else []))
    daemon: Daemon = Wherryd(config=_WHERRYD) if request.param == "wherryd" else Containerd(config=_CONTAINERD)
    try:
        daemon.start()
        yield Wherry(daemon, daemon.namespace())
    finally:
        daemon.close()


def test_prune(hoarder: Wherry, busybox_archive: Path) -> None:
    hoarder("image", "import", busybox_archive)
    hoarder("image", "import", "--name", "other", busybox_archive)
    stray = hoarder("content", "ingest", "stray", input=b"x" * 2000).split()[-1]
    before = hoarder("content", "ls", "-q")
    assert stray in before
    said = hoarder.json("prune", "--dry-run", "--json")
    assert said == {"images": [], "blobs": [{"digest": stray, "size": 2000}], "snapshots": [], "size": 2000}
    assert hoarder("content", "ls", "-q") == before
    assert hoarder("prune") == f"blob      {stray}  2.0 KiB\nfreed 2.0 KiB: 0 images, 1 blobs, 0 snapshots\n"
    assert stray not in hoarder("content", "ls", "-q")
    assert hoarder("prune", "-q") == "0\n"
    assert "--quiet and --json" in hoarder.fails("prune", "-q", "--json")


def test_prune_images(hoarder: Wherry, busybox_archive: Path) -> None:
    hoarder("image", "import", busybox_archive)
    hoarder("image", "tag", BUSYBOX, "same")
    hoarder("run", "--name", "box", BUSYBOX, "true")
    assert hoarder.json("prune", "--images", "--dry-run", "--json")["images"] == []
    hoarder("rm", "box")
    would = hoarder.json("prune", "--images", "--dry-run", "--json")
    assert would["images"] == sorted([BUSYBOX, "same"])
    assert hoarder("image", "ls", "-q").split() == sorted([BUSYBOX, "same"])
    lines = hoarder("prune", "--images").splitlines()
    assert lines[:2] == [f"image     {name}" for name in sorted([BUSYBOX, "same"])]
    assert re.fullmatch(r"freed [0-9.]+ [KM]iB: 2 images, \d+ blobs, 2 snapshots", lines[-1])
    assert (hoarder("content", "ls", "-q"), hoarder("snapshot", "ls", "-q"), hoarder("image", "ls", "-q")) == ("",) * 3

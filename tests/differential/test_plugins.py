"""`ctr plugins ls`."""

from __future__ import annotations

from tests.differential.transcript import Side, differential


@differential
def test_list(side: Side) -> None:
    side.ctr("plugins", "ls")


@differential
def test_quiet_list(side: Side) -> None:
    side.ctr("plugins", "ls", "-q")


@differential
def test_details(side: Side) -> None:
    side.ctr("plugins", "ls", "--detailed")


@differential
def test_filters(side: Side) -> None:
    side.ctr("plugins", "ls", "type==io.containerd.snapshotter.v1, id==overlayfs")
    side.ctr("plugins", "ls", "id==restart")
    side.ctr("plugins", "ls", "id==absent")
    side.ctr("plugins", "ls", "bad filter")

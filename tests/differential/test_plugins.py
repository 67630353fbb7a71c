"""`ctr plugins ls`.

The whole list is each daemon's own: wherryd has no plugin for each step between a service and its store, nor the btrfs,
zfs and devmapper snapshotters, CRI, tracing and the restart monitor. What clients look up before they use it is
compared: by type and id, with platforms and status.
"""

from __future__ import annotations

import pytest

from tests.differential.transcript import Side, differential

LOOKED_UP = (
    "type==io.containerd.snapshotter.v1, id==overlayfs",
    "type==io.containerd.snapshotter.v1,id==native",
    "type==io.containerd.content.v1",
    "type==io.containerd.differ.v1,id==walking",
    "type==io.containerd.runtime.v1",
    "type==io.containerd.runtime.v2",
    "type==io.containerd.gc.v1",
    "id==tasks",
    "id==containers",
    "id==absent",
)


@pytest.mark.parametrize("filter", LOOKED_UP)
@differential
def test_what_clients_look_up(side: Side, filter: str) -> None:
    side.ctr("plugins", "ls", filter)
    side.ctr("plugins", "ls", "-q", filter)


@differential
def test_a_bad_filter(side: Side) -> None:
    side.ctr("plugins", "ls", "bad filter")

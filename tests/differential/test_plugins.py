"""`ctr plugins ls`.

The whole list is compared but for the plugins that only one side has (volatile.py says why), and what clients look up
before they use it: by type and id, with platforms, status, and for some the details.
"""

from __future__ import annotations

import pytest

from tests.differential.transcript import Side, differential

LOOKED_UP = (
    "type==io.containerd.snapshotter.v1, id==overlayfs",
    "type==io.containerd.snapshotter.v1,id==native",
    "type==io.containerd.snapshotter.v1,id==btrfs",
    "type==io.containerd.content.v1",
    "type==io.containerd.differ.v1,id==walking",
    "type==io.containerd.runtime.v1",
    "type==io.containerd.runtime.v2",
    "type==io.containerd.gc.v1",
    "id==tasks",
    "id==containers",
    "id==absent",
)


@pytest.mark.parametrize("flags", [(), ("--quiet",)], ids=["table", "quiet"])
@differential
def test_list(side: Side, flags: tuple[str, ...]) -> None:
    side.ctr("plugins", "ls", *flags)


@pytest.mark.parametrize("name", ["overlayfs", "btrfs", "content"])
@differential
def test_details(side: Side, name: str) -> None:
    """What a snapshotter can do, why one does not work here, and where the content lies."""
    side.ctr("plugins", "ls", "--detailed", f'id=={name},type~="io.containerd.(snapshotter|content).v1"')


@pytest.mark.parametrize("filter", LOOKED_UP)
@differential
def test_what_clients_look_up(side: Side, filter: str) -> None:
    side.ctr("plugins", "ls", filter)
    side.ctr("plugins", "ls", "-q", filter)


@differential
def test_a_bad_filter(side: Side) -> None:
    side.ctr("plugins", "ls", "bad filter")

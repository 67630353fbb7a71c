from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Wherry
from tests.harness.daemon import Daemon


@pytest.fixture(params=["wherryd", "containerd"])
def wherry(request: pytest.FixtureRequest) -> Wherry:
    """The wherry command against each daemon in turn, in a namespace of its own."""
    daemon: Daemon = request.getfixturevalue(request.param)
    return Wherry(daemon, daemon.namespace())


@pytest.fixture
def busybox(wherry: Wherry, busybox_archive: Path) -> Wherry:
    """The same with the image docker.io/library/busybox:latest."""
    wherry("image", "import", busybox_archive)
    return wherry

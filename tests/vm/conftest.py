"""What of this room runs where: tests marked `vm` in the virtual machine, the one that boots it outside."""

from __future__ import annotations

import os

import pytest

from tests.differential.conftest import sides, subject
from tests.shim.conftest import lab, shim_rootfs

__all__ = ["lab", "shim_rootfs", "sides", "subject"]

#: tools/vm.py sets it.
INSIDE = os.environ.get("WHERRY_VM") == "1"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to the other side. Booting takes longest of all tests, so it begins first."""
    here = [item for item in items if item.path.parent.name == "vm"]
    elsewhere = [item for item in here if (item.get_closest_marker("vm") is not None) is not INSIDE]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
    first = [item for item in here if item not in elsewhere]
    items[:] = first + [item for item in items if item not in here]

"""Fixtures of the shim room."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.shim import bundle
from tests.shim.lab import Lab


@pytest.fixture(scope="session")
def shim_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of busybox, unpacked."""
    return bundle.make_rootfs(tmp_path_factory.mktemp("shim") / "rootfs")


@pytest.fixture
async def lab(shim_rootfs: Path) -> AsyncIterator[Lab]:
    """A place for a test of a shim; an error of the test if something is left behind."""
    if os.geteuid() != 0 or shutil.which("runc") is None:
        pytest.skip("needs root and runc")
    made = Lab(shim_rootfs)
    await made.sink.start()
    yield made
    left = await made.finish()
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
def runc() -> str:
    return "runc"

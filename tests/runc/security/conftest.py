"""The laboratory in which containers attack."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.harness import leaks
from tests.runc.security.laboratory import Laboratory


@pytest.fixture(scope="session")
def shared_laboratory() -> Iterator[Laboratory]:
    need_root("cc", "/bin/busybox")
    directory = tempfile.mkdtemp(prefix="wherry-security-")
    os.chmod(directory, 0o755)  # what has ids of a user namespace goes through it
    try:
        yield Laboratory(Path(directory))
    finally:
        # Some trees are deeper than Python's own functions can go.
        subprocess.run(["rm", "-rf", directory], check=True)


@pytest.fixture
def laboratory(shared_laboratory: Laboratory) -> Iterator[Laboratory]:
    """The place where containers run; a test that leaves anything there fails."""
    yield shared_laboratory
    left = leaks.remaining(shared_laboratory.left)
    assert not left, "left behind:\n" + "\n".join(left)

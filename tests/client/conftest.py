from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.image_archives import Archives, LayoutBuilder, make_archives


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    """One image in every form that is imported; skips where a tool that makes one is not installed."""
    for program in ("umoci", "skopeo", "podman", "zstd", "xz", "bzip2"):
        if shutil.which(program) is None or os.geteuid() != 0:
            pytest.skip(f"needs root and {program}")
    directory = tmp_path_factory.mktemp("archives")
    yield make_archives(directory)
    shutil.rmtree(directory)


@pytest.fixture
def builder(tmp_path: Path) -> LayoutBuilder:
    return LayoutBuilder(tmp_path / "built")

"""The two runtimes, each in a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.harness.daemon import COMMANDS
from tests.runc.command.runtime import Runtime


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Runtime]:
    program = COMMANDS / "wherry-runc"
    need_root(program, "runc", "busybox")
    runtime = Runtime(str(program), tmp_path / "ours")
    runtime.directory.mkdir()
    yield runtime
    runtime.close()


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Runtime]:
    need_root("runc", "busybox")
    runtime = Runtime("runc", tmp_path / "runc")
    runtime.directory.mkdir()
    yield runtime
    runtime.close()

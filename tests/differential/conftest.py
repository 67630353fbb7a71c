from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.differential.known import KNOWN
from tests.differential.transcript import Side, same_length_directories
from tests.harness import leaks
from tests.harness.daemon import Containerd, Daemon

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

#: Whom to compare with Debian's containerd. With `containerd`, a second instance of it: the two must agree, which
#: shows that what volatile.py replaces is enough, and no more than chance decides over a failure against wherryd.
SUBJECT = os.environ.get("WHERRY_TEST_SUBJECT", "wherryd")


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Daemon:
    """The daemon that is compared with Debian's containerd."""
    if SUBJECT == "containerd":
        start: StartDaemon = request.getfixturevalue("start_session_daemon")
        return start(Containerd())
    daemon: Daemon = request.getfixturevalue(SUBJECT)
    return daemon


@pytest.fixture
def sides(containerd: Containerd, subject: Daemon, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    first, second = same_length_directories(tmp_path)
    try:
        yield Side(containerd, first), Side(subject, second)
    finally:
        leaks.unmount(tmp_path)  # of a flow that failed between mounting and unmounting


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect the differences that are known to be there still."""
    for item in items:
        name = f"{item.path.name}::{item.name.partition('[')[0]}"
        if item.path.parent.name == "differential" and name in KNOWN:
            item.add_marker(pytest.mark.xfail(reason=KNOWN[name], strict=False))

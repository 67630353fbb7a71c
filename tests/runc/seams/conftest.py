"""wherry-runc below programs that know nothing of it, each in a place of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.harness import leaks
from tests.harness.command import as_user, run
from tests.harness.daemon import COMMANDS

#: The runtimes that a peer is tried with, by the names that it knows them by.
PROGRAMS = {"runc": "/usr/sbin/runc", "wherry-runc": str(COMMANDS / "wherry-runc")}


@pytest.fixture
def user() -> int:
    """The id of a user that has no name, no process and no file; which of the workers', its own id tells."""
    id = 60000 + os.getpid() % 5000
    need_root("setpriv", *PROGRAMS.values())
    if run([*as_user(id), PROGRAMS["wherry-runc"], "--version"]).code != 0:
        pytest.skip("needs a virtual environment that every user may look into")
    return id


@pytest.fixture
def place(user: int) -> Iterator[Path]:
    """A directory of the user's, with a path that everybody may go. Mounts and processes in it are leaks."""
    directory = Path(tempfile.mkdtemp(prefix="wr-", dir="/tmp"))
    os.chown(directory, user, user)
    yield directory
    left = leaks.remaining(lambda: [*leaks.of_directory(directory), *of_user(user)])
    leaks.unmount(directory)
    shutil.rmtree(directory)
    assert left == []


def of_user(user: int) -> list[str]:
    """Return the processes of a user."""
    found = run(["ps", "-o", "pid=,args=", "-u", str(user)]).text.splitlines()
    return [f"process: {line.strip()}" for line in found]

"""wherry-runc below programs that know nothing of it, each in a place of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.docker.transcript import IMAGE
from tests.harness import leaks
from tests.harness.command import as_user, run
from tests.harness.daemon import COMMANDS
from tests.harness.podman import Podman

#: The runtimes that a peer is tried with, by the names that it knows them by.
PROGRAMS = {"runc": "/usr/sbin/runc", "wherry-runc": str(COMMANDS / "wherry-runc")}


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="package")
def root_podmans(busybox_rootfs: Path) -> Iterator[Mapping[str, Podman]]:
    """podman with each of the runtimes, and the image busybox."""
    need_root("podman", "conmon", *PROGRAMS.values())
    yield from _podmans(0, busybox_rootfs)


@pytest.fixture(scope="package")
def users_podmans(user: int, busybox_rootfs: Path) -> Iterator[Mapping[str, Podman]]:
    """The same of a user, another one than `user`: podman keeps a process of its own between its calls."""
    need_root("podman", "conmon", "unshare")
    user += 10000
    yield from _podmans(user, busybox_rootfs)
    assert leaks.remaining(lambda: of_user(user)) == []


def _podmans(user: int, rootfs: Path) -> Iterator[Mapping[str, Podman]]:
    made = {name: Podman(name, program, user=user) for name, program in PROGRAMS.items()}
    try:
        for podman in made.values():
            podman.docker("import", "--quiet", "-", IMAGE, input=rootfs.read_bytes()).check()
        yield made
    finally:
        for podman in made.values():
            podman.close()


@pytest.fixture
def podmans(root_podmans: Mapping[str, Podman]) -> Iterator[Mapping[str, Podman]]:
    """Root's, which a test leaves as it found them."""
    yield root_podmans
    assert [left for podman in root_podmans.values() for left in podman.finish_test()] == []


@pytest.fixture
def rootless_podmans(users_podmans: Mapping[str, Podman]) -> Iterator[Mapping[str, Podman]]:
    """A user's, which a test leaves as it found them."""
    yield users_podmans
    assert [left for podman in users_podmans.values() for left in podman.finish_test()] == []


def of_user(user: int) -> list[str]:
    """Return the processes of a user."""
    found = run(["ps", "-o", "pid=,args=", "-u", str(user)]).text.splitlines()
    return [f"process: {line.strip()}" for line in found]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave containerd's first runtime to the long tests: what it asks of runc is what the second one asks."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "[v1" in item.name:
            item.add_marker(pytest.mark.long)

"""Fixtures for every room: the real peers, each in a place of its own, ended with the session that started it.

What a test leaves on the machine is an error of that test: see `nothing_left`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.harness import archives
from tests.harness.daemon import COMMANDS, Containerd, Daemon, Wherryd

AnyDaemon = TypeVar("AnyDaemon", bound=Daemon)

#: The daemons that run now, with the length that each one's log had when the present test began.
_RUNNING: dict[Daemon, int] = {}


def _running(daemon: AnyDaemon) -> Iterator[AnyDaemon]:
    """Run a daemon for as long as a fixture lives."""
    try:
        daemon.start()
        _RUNNING[daemon] = 0
        yield daemon
    finally:
        _RUNNING.pop(daemon, None)
        daemon.close()


def need_root(*programs: str | Path) -> None:
    """Skip the test unless it runs as root and the programs are installed."""
    missing = [str(program) for program in programs if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root{' and '.join(['', *missing])}")


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """Debian's containerd with root, state, socket and plugins of its own, one for each worker."""
    need_root("containerd", "ctr")
    yield from _running(Containerd())


@pytest.fixture(scope="session")
def wherryd() -> Iterator[Wherryd]:
    """The installed wherryd with root, state and socket of its own, one for each worker."""
    need_root(COMMANDS / "wherryd", "ctr")
    yield from _running(Wherryd())


class StartDaemon(Protocol):
    """Starts a daemon, which ends with the fixture that gave this."""

    def __call__(self, daemon: AnyDaemon) -> AnyDaemon: ...


@pytest.fixture
def start_daemon() -> Iterator[StartDaemon]:
    """Start a daemon for this test alone: one that is killed, restarted, or configured otherwise."""
    yield from starter()


@pytest.fixture(scope="session")
def start_session_daemon() -> Iterator[StartDaemon]:
    """Start a daemon for the rest of this worker's tests."""
    yield from starter()


def starter() -> Iterator[StartDaemon]:
    """Yield a function that starts daemons; what was started last is ended first, for others may be below it."""
    running: list[Iterator[Daemon]] = []

    def start(daemon: AnyDaemon) -> AnyDaemon:
        need_root("ctr")
        run = _running(daemon)
        running.append(run)
        return next(run)

    yield start
    for run in reversed(running):
        for _ in run:
            raise AssertionError("a daemon is yielded once")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Empty the namespaces that the test used, and fail it if a mount, process, cgroup, FIFO … of them is left."""
    for daemon in _RUNNING:
        _RUNNING[daemon] = daemon.log.stat().st_size
    yield
    left = [f"{daemon.kind}: {what}" for daemon in _RUNNING for what in daemon.finish_test()]
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show, with a failed test, what its daemons logged meanwhile."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for daemon, start in _RUNNING.items():
            with open(daemon.log, "rb") as log:
                log.seek(start)
                report.sections.append((f"log of {daemon.kind}", log.read()[-20000:].decode(errors="replace")))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def busybox_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The busybox image of two layers as an OCI archive, named archives.BUSYBOX."""
    path = tmp_path_factory.mktemp("archives") / "busybox.oci.tar"
    path.write_bytes(archives.busybox().oci())
    return path


@pytest.fixture(scope="session")
def busybox_docker_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same image as `docker save` would write it."""
    path = tmp_path_factory.mktemp("archives") / "busybox.docker.tar"
    path.write_bytes(archives.busybox().docker())
    return path


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its root file system as a plain tar."""
    path = tmp_path_factory.mktemp("archives") / "rootfs.tar"
    path.write_bytes(archives.rootfs_tar())
    return path


@pytest.fixture(scope="session")
def crun(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's crun. It refuses a host that has cgroups of both versions: then it does not see those of the second."""
    if shutil.which("crun") is None:
        pytest.skip("needs crun")
    if not Path("/sys/fs/cgroup/unified").exists():
        return "crun"
    script = tmp_path_factory.mktemp("crun") / "crun"
    script.write_text(
        """#!/bin/sh
exec unshare --mount --propagation slave sh -c 'umount /sys/fs/cgroup/unified && exec crun "$@"' crun "$@"
"""
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)

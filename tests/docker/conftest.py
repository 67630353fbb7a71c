"""dockerds on every pair of daemon and shim: all Debian's, and with one or both of them ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import need_root, starter
from tests.docker.transcript import IMAGE, REFERENCE
from tests.harness.daemon import Containerd, ContainerdWithOurShims, Daemon, Wherryd, WherrydWithDebiansShims
from tests.harness.dockerd import Dockerd

#: What is below each dockerd.
BELOW: dict[str, Callable[[], Daemon]] = {
    REFERENCE: Containerd,
    "containerd, our shim": ContainerdWithOurShims,
    "wherryd, our shim": Wherryd,
    "wherryd, Debian's shim": WherrydWithDebiansShims,
}


@pytest.fixture(scope="package")
def dockerds(busybox_rootfs: Path) -> Iterator[Mapping[str, Dockerd]]:
    """A dockerd on each of BELOW, with the image busybox; all are ended when this worker has no more tests of them."""
    with start_dockerds(busybox_rootfs, {name: (below, Dockerd) for name, below in BELOW.items()}) as made:
        yield made


@contextmanager
def start_dockerds(
    rootfs: Path, wanted: Mapping[str, tuple[Callable[[], Daemon], Callable[[Daemon], Dockerd]]]
) -> Iterator[Mapping[str, Dockerd]]:
    """Run dockerds, each on a daemon of its own, which have the image busybox."""
    need_root("/usr/sbin/dockerd", "/usr/bin/docker", "containerd", "unshare", "ip")
    with contextmanager(starter)() as start:

        def dockerd(pair: tuple[Callable[[], Daemon], Callable[[Daemon], Dockerd]]) -> Dockerd:
            below, new = pair
            made = start(new(start(below())))
            made.docker("import", rootfs, IMAGE).check()
            return made

        with ThreadPoolExecutor() as threads:
            made = dict(zip(wanted, threads.map(dockerd, wanted.values()), strict=True))
        yield made

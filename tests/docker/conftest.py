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
    need_root("/usr/sbin/dockerd", "/usr/bin/docker", "containerd", "unshare", "ip")
    with contextmanager(starter)() as start:

        def dockerd(below: Callable[[], Daemon]) -> Dockerd:
            made = start(Dockerd(start(below())))
            made.docker("import", busybox_rootfs, IMAGE).check()
            return made

        with ThreadPoolExecutor() as threads:
            made = dict(zip(BELOW, threads.map(dockerd, BELOW.values()), strict=True))
        yield made

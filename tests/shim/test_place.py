"""Where a daemon puts the shim of a container: its cgroup, and its place in the order of dying."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.daemon import COMMANDS, Daemon
from tests.harness.names import unique
from wherry.api import typeurl
from wherry.api.runtime.runc.v1.options_pb2 import Options
from wherry.api.services.tasks.v1.tasks_pb2 import CreateTaskRequest
from wherry.client.client import Client
from wherry.errors import Unknown
from wherry.linux.cgroup import unified
from wherry.rpc.grpc_channel import GrpcChannel

_CGROUPS = Path("/sys/fs/cgroup")

_OURS, _DEBIANS = str(COMMANDS / "containerd-shim-wherry-v2"), "/usr/bin/containerd-shim-runc-v2"

pairs = pytest.mark.parametrize(
    ("kind", "runtime"),
    [
        ("containerd", "io.containerd.runc.v2"),
        ("containerd", _OURS),
        ("wherryd", "io.containerd.runc.v2"),
        ("wherryd", _DEBIANS),
    ],
    ids=["containerd's own", "containerd with ours", "wherryd's own", "wherryd with Debian's"],
)


@contextlib.asynccontextmanager
async def _created(daemon: Daemon, runtime: str, archive: Path, options: Options) -> AsyncIterator[int]:
    """Create a task and yield the pid of its shim."""
    namespace, id = daemon.namespace(), daemon.id()
    daemon.ctr("images", "import", archive, namespace=namespace).check()
    words = ("containers", "create", "--runtime", runtime, BUSYBOX, id, "sleep", "1000")
    daemon.ctr(*words, namespace=namespace).check()
    channel = GrpcChannel(daemon.address)
    try:
        client = Client(channel, namespace)
        request = CreateTaskRequest(
            container_id=id,
            rootfs=await client.snapshots("overlayfs").mounts(id),
            options=typeurl.pack(options),
        )
        pid = (await client.tasks.create(request, metadata=client.metadata)).pid
        yield int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    finally:
        await channel.close()


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A cgroup that is there, in a hierarchy that limits something, and must be empty at the end."""
    name = f"/{unique('ws')}"
    path = (_CGROUPS if unified() else _CGROUPS / "pids") / name.lstrip("/")
    path.mkdir()
    yield name
    path.rmdir()


@pairs
async def test_shim_cgroup(
    request: pytest.FixtureRequest, kind: str, runtime: str, busybox_archive: Path, cgroup: str
) -> None:
    daemon: Daemon = request.getfixturevalue(kind)
    async with _created(daemon, runtime, busybox_archive, Options(shim_cgroup=cgroup)) as shim:
        paths = [line.split(":", 2) for line in Path(f"/proc/{shim}/cgroup").read_text().splitlines()]
        assert [path for _, controllers, path in paths if controllers == ("" if unified() else "pids")] == [cgroup]
    assert not daemon.finish_test()


@pairs
async def test_shim_cgroup_that_is_not_there(
    request: pytest.FixtureRequest, kind: str, runtime: str, busybox_archive: Path
) -> None:
    daemon: Daemon = request.getfixturevalue(kind)
    name = f"/{unique('ws')}/deep"
    failure = f"failed to join cgroup {name}: open /sys/fs/cgroup.*{name}/cgroup.procs: no such file or directory"
    debians = runtime == _DEBIANS or (kind == "containerd" and runtime != _OURS)
    if debians and not unified():
        failure = f"failed to load cgroup {name}: cgroups: cgroup deleted"
    with pytest.raises(Unknown, match=f"failed to start shim: .*{failure}"):
        async with _created(daemon, runtime, busybox_archive, Options(shim_cgroup=name)):
            pass
    # An absolute path: right below a hierarchy's top, if anywhere.
    assert not leaks.cgroup_tops(name.split("/")[1])


@pytest.mark.parametrize("score", [0, 1000, -500])
@pairs
async def test_oom_score(
    request: pytest.FixtureRequest, kind: str, runtime: str, busybox_archive: Path, score: int
) -> None:
    daemon: Daemon = request.getfixturevalue(kind)
    own = Path(f"/proc/{daemon.pid}/oom_score_adj")
    before = own.read_text()
    try:
        own.write_text(str(score))
    except PermissionError:
        pytest.skip("needs CAP_SYS_RESOURCE")
    try:
        async with _created(daemon, runtime, busybox_archive, Options()) as shim:
            assert int(Path(f"/proc/{shim}/oom_score_adj").read_text()) == min(score + 1, 1000)
    finally:
        own.write_text(before)

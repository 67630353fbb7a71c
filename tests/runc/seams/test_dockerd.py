"""Debian's dockerd, told of wherry-runc in its configuration: what it says of containers is what it says with runc."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.docker.conftest import start_dockerds
from tests.docker.test_life import (  # noqa: F401  # tests, which are played here on the dockerds below
    test_figures_and_limits,
    test_out_of_memory,
    test_pause,
    test_stop_kill_and_start,
)
from tests.docker.test_run import (  # noqa: F401
    test_exec,
    test_init,
    test_pid_namespace_of_the_host,
    test_run,
    test_run_in_a_terminal,
    test_what_cannot_be_run,
)
from tests.docker.transcript import IMAGE, REFERENCE, Side, differential
from tests.harness.command import run
from tests.harness.daemon import Containerd
from tests.harness.dockerd import Dockerd
from tests.runc.seams.conftest import PROGRAMS

OURS = "wherry-runc"


@pytest.fixture(scope="module")
def dockerds(busybox_rootfs: Path) -> Iterator[Mapping[str, Dockerd]]:
    """One with runc, and one with wherry-runc, on containerd and shims of Debian's."""
    with_ours = partial(Dockerd, runtime=OURS, program=PROGRAMS[OURS])
    with start_dockerds(busybox_rootfs, {REFERENCE: (Containerd, Dockerd), OURS: (Containerd, with_ours)}) as made:
        yield made


@differential
def test_flags(side: Side) -> None:
    """What a container is given and denied, as it sees it."""
    directory = side.dockerd.directory / "volume"
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text("of the host\n")
    files = "cat /v/file; touch /v/x; touch /x; touch /tmp/x && echo may; df /t | tail -1; df /dev/shm | tail -1"
    places = ("--volume", f"{directory}:/v:ro", "--tmpfs", "/t:size=1m", "--tmpfs", "/tmp", "--shm-size", "1m")
    side.run("--rm", "--read-only", *places, IMAGE, "sh", "-c", files)
    seen = "id; pwd; umask; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; ls -l /dev | wc -l; ulimit -n"
    for flags in (
        ("--user", "1000:2000", "--group-add", "7", "--workdir", "/made"),
        ("--privileged",),
        (
            "--cap-drop",
            "ALL",
            "--cap-add",
            "NET_RAW",
            "--security-opt",
            "no-new-privileges",
            "--ulimit",
            "nofile=77:99",
        ),
        ("--security-opt", "seccomp=unconfined", "--device", "/dev/null:/dev/z", "--ipc", "host", "--uts", "host"),
    ):
        side.run("--rm", *flags, IMAGE, "sh", "-c", seen)
    limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /proc/self/cgroup"
    side.run("--rm", "--memory", "64m", "--cpus", "0.5", "--cgroupns", "private", IMAGE, "sh", "-c", limits)
    side.run("--rm", "--sysctl", "net.ipv4.ip_forward=1", IMAGE, "cat", "/proc/sys/net/ipv4/ip_forward")
    masked = "cat /proc/kcore; ls /proc/acpi; echo x > /proc/sys/kernel/panic; readlink /dev/core /dev/fd"
    side.run("--rm", IMAGE, "sh", "-c", masked)


def test_which_runtime(dockerds: Mapping[str, Dockerd]) -> None:
    """In the directory that dockerd gives its runtimes, each finds its own containers and no others."""
    for name, dockerd in dockerds.items():
        id = dockerd.docker("run", "--detach", "--network", "none", IMAGE, "sleep", "1000").check().text.strip()
        own = "runc" if name == REFERENCE else OURS
        assert dockerd.docker("inspect", "--format", "{{.HostConfig.Runtime}}", id).text.strip() == own
        for runtime, program in PROGRAMS.items():
            listed = run([program, "--root", dockerd.runtime_root, "list", "-q"]).check().text
            assert listed == (f"{id}\n" if runtime == own else "")

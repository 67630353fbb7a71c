"""What else on the machine sees of wherryd and its shims: containerd's advisories about directories and sockets."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.archives import BUSYBOX
from tests.harness.daemon import Wherryd

_NOBODY = 65534


@dataclass
class Running:
    """A container under wherryd."""

    daemon: Wherryd
    namespace: str
    id: str
    bundle: Path


@pytest.fixture
def running(wherryd: Wherryd, busybox_archive: Path) -> Iterator[Running]:
    namespace, id = wherryd.namespace(), wherryd.id()
    wherryd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    wherryd.wherry(
        "run", "-d", "--runc-binary", "wherry-runc", "--name", id, BUSYBOX, "sleep", "1000", namespace=namespace
    ).check()
    (bundle,) = wherryd.state.glob(f"*/{namespace}/{id}")
    yield Running(wherryd, namespace, id, bundle)
    wherryd.ctr("tasks", "kill", "--signal", "SIGKILL", id, namespace=namespace)


def _as_nobody(code: str, *arguments: str | Path) -> str:
    """Run some Python as a user who is nobody, and return what it prints."""
    # The virtual environment may lie where nobody comes to.
    command = ["/usr/bin/python3", "-I", "-S", "-c", code, *map(str, arguments)]
    ran = subprocess.run(command, user=_NOBODY, group=_NOBODY, extra_groups=[], capture_output=True, text=True)
    return ran.stdout + ran.stderr


_WALK = """
import os, sys
for top in sys.argv[1:]:
    for directory, names, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            if os.access(path, os.R_OK):
                print("read", path)
        print("listed", directory)
"""
_READ = "import sys; print('took', len(open(sys.argv[1], 'rb').read(1)))"


def _rootfs(bundle: Path) -> Path:
    return bundle / "rootfs/bin/busybox"


def test_bundles_and_snapshots_are_closed(running: Running) -> None:
    """CVE-2021-41103, CVE-2024-25621: nobody else comes to a container's files, set-uid programs above all."""
    daemon = running.daemon
    assert _rootfs(running.bundle).exists()
    assert "PermissionError" in _as_nobody(_READ, _rootfs(running.bundle))
    assert "PermissionError" in _as_nobody(_READ, running.bundle / "config.json")
    # Each by its own path as well: the modes above it might let one through that may not list.
    directories = [path for top in (daemon.root, daemon.state) for path in (top, *top.glob("*"), *top.glob("*/*"))]
    assert _as_nobody(_WALK, *directories) == ""
    assert running.bundle.stat().st_mode & 0o777 == 0o700
    assert daemon.root.stat().st_mode & 0o777 in (0o700, 0o711) and daemon.state.stat().st_mode & 0o777 in (
        0o700,
        0o711,
    )


def test_bundles_that_are_open(running: Running) -> None:
    """The positive control: with the modes that containerd's directories had, anybody reads them."""
    closed: list[tuple[Path, int]] = []
    try:
        for directory in (running.bundle, *running.bundle.parents):
            mode = directory.stat().st_mode & 0o7777
            closed.append((directory, mode))
            directory.chmod(mode | 0o055)
            if directory == running.daemon.directory:
                break
        assert _as_nobody(_READ, _rootfs(running.bundle)) == "took 1\n"
    finally:
        for directory, mode in closed:
            directory.chmod(mode)


def test_state_of_the_runtime_is_closed(running: Running) -> None:
    """CVE-2024-25621: neither is the state of the built-in runtime, its gate among it, for others."""
    states = list(Path("/run/wherry/runc").glob(f"{running.namespace}/.wherry/containers/{running.id}"))
    assert states
    assert "PermissionError" in _as_nobody(_READ, states[0] / "wherry.json")
    assert _as_nobody(_WALK, states[0].parent) == ""


def _abstract(pids: set[int]) -> list[str]:
    """Return the abstract sockets that some processes hold."""
    held = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                held.add(os.readlink(fd))
            except OSError:
                continue  # closed meanwhile
    found = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[6]}]" in held and len(fields) > 7 and fields[7].startswith("@"):
            found.append(fields[7])
    return found


def _ours(running: Running) -> set[int]:
    """Return wherryd, its zygote, and the shims, by what their descriptors lead to."""
    pids = {running.daemon.pid}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"wherry" in command and b"pytest" not in command:
            pids.add(int(entry.name))
    return pids


def test_no_abstract_sockets(running: Running) -> None:
    """CVE-2020-15257: what listens without a file is open to every container with the host's network."""
    pids = _ours(running)
    assert len(pids) >= 3, pids  # the daemon, the zygote, a shim
    assert _abstract(pids) == []
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(f"\0{running.id}")
        control.listen()
        assert _abstract({os.getpid()}) == [f"@{running.id}"]


_CONNECT = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(path)
            print("connected", path)
        except OSError as error:
            print(type(error).__name__)
"""


def test_sockets_are_closed_to_others(running: Running) -> None:
    """CVE-2020-15257: not even by their paths."""
    paths = {running.daemon.address, f"{running.daemon.address}.ttrpc"}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and ("wherry" in fields[7] or "containerd" in fields[7]) and Path(fields[7]).exists():
            paths.add(fields[7])
    assert len(paths) >= 3, paths  # a shim's among them
    assert set(_as_nobody(_CONNECT, *sorted(paths)).split()) == {"PermissionError"}


def test_user_of_an_image_too_large_for_an_id(running: Running) -> None:
    """CVE-2024-40635: on the command line as in the runtime."""
    daemon, namespace = running.daemon, running.namespace
    for user in ("4294967296", "4294967295", "1000:4294967296", "18446744073709551616"):
        failed = daemon.wherry("run", "--rm", "--user", user, BUSYBOX, "id", "-u", namespace=namespace)
        assert failed.code != 0 and failed.text == "" and "4294967294" in failed.error_text, failed
    large = daemon.wherry("run", "--rm", "--user", "2147483648", BUSYBOX, "id", "-u", namespace=namespace)
    assert large.text != "0\n"

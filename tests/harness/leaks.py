"""What a daemon or a container must not leave on the machine, looked for by the names that only our tests use."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness.command import run

if TYPE_CHECKING:
    from tests.harness.daemon import Daemon
    from tests.harness.names import Names

#: Seconds for what ends by itself a moment after the command that caused it: a shim, its socket, a cgroup.
_PATIENCE = 10.0

_CGROUPS = Path("/sys/fs/cgroup")
_RUNC = Path("/run/containerd/runc")
_BUILTIN = Path("/run/wherry/runc")
_FIFOS = Path("/run/containerd/fifo")
_SHIM_SOCKETS = Path("/run/containerd/s")
_NETWORKS = Path("/run/netns")


def of_namespaces(daemon: Daemon, names: Names) -> list[str]:
    """Return what the namespaces and ids of a test left, each as a sentence; empty when all is gone."""
    left = [f"mount: {line}" for line in mounts() if f"{daemon.directory}/" in line]
    for namespace in names.namespaces:
        left += [f"process: {line}" for line in processes(namespace)]
        left += [f"cgroup: {path}" for path in cgroups(namespace)]
        left += [f"runc state: {path}" for path in states(_RUNC / namespace)]
        left += [f"wherry-runc state: {id}" for id in states_of_ours(namespace)]
        for top in (daemon.state, daemon.root):
            for kind in ("io.containerd.runtime.*", "io.containerd.sandbox.controller.*"):
                for runtimes in top.glob(kind):
                    left += [f"bundle: {path}" for path in entries(runtimes / namespace)]
        left += [f"activation: {path}" for path in entries(daemon.state / "io.containerd.mount-manager.v1.bolt/t")]
        for container in names.ids:
            socket = shim_socket(daemon.address, namespace, container)
            left += [f"shim socket of {namespace}/{container}: {socket}"] if socket.exists() else []
    for container in names.ids:
        for directory in entries(_FIFOS):
            left += [f"fifo: {path}" for path in entries(directory) if path.name.startswith(f"{container}-")]
        left += [f"network namespace: {path}" for path in entries(_NETWORKS) if container in path.name]
    return left


def of_directory(directory: Path) -> list[str]:
    """Return what holds on to a daemon's directory after its end."""
    left = [f"mount: {line}" for line in mounts() if f"{directory}/" in line]
    return left + [f"process: {line}" for line in processes(f"{directory}/")]


def remaining(find: Callable[[], list[str]]) -> list[str]:
    """Look until nothing is left or patience ends; returns what is left then."""
    deadline = time.monotonic() + _PATIENCE
    while (left := find()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def states_of_ours(namespace: str) -> list[str]:
    """Return the containers that the built-in runtime of our shims knows in a namespace."""
    return [path.name for path in states(_BUILTIN / namespace)]


def states(root: Path) -> list[Path]:
    """Return where a runtime has the state of containers: ours not right below its root."""
    return [path for path in entries(root) if path.name != ".wherry"] + entries(root / ".wherry/containers")


def tidy(names: Names) -> None:
    """Remove the directories that runtimes and containerd leave for every namespace they ever saw."""
    for namespace in names.namespaces:
        roots = _RUNC / namespace, _BUILTIN / namespace
        for root in roots:
            shutil.rmtree(root / ".wherry/seccomp", ignore_errors=True)
        ours = [root / ".wherry" for root in roots]
        for path in (*ours, *roots, *_CGROUPS.glob(f"*/{namespace}"), _CGROUPS / namespace):
            with contextlib.suppress(OSError):  # absent, or not empty: then it has been reported
                path.rmdir()


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def unmount(directory: Path) -> None:
    """Unmount what is left under a directory of ours or of what is there: a leak is reported once, and removing the
    directory must not reach into a container's root."""
    for line in reversed(mounts()):
        if f"{directory}/" in line:
            run(["umount", "--lazy", line.split()[4]])


def processes(word: str) -> Iterator[str]:
    """Yield the processes whose command line, working directory or root holds the word."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            places = [os.readlink(process / "cwd"), os.readlink(process / "root")]
        except OSError:
            continue  # gone meanwhile
        if int(process.name) != os.getpid() and any(word in text for text in (command, *(f"{p}/" for p in places))):
            yield f"{process.name} {command} (in {places[0]})"


def cgroups(namespace: str) -> list[Path]:
    """Return the cgroups of containers in a namespace, in every hierarchy."""
    return list(itertools.chain.from_iterable(_directories(top) for top in cgroup_tops(namespace)))


def cgroup_tops(name: str) -> list[Path]:
    """Return the cgroups of a name right below the top of each hierarchy."""
    return [path for path in (*_CGROUPS.glob(f"*/{name}"), _CGROUPS / name) if path.is_dir()]


def shim_socket(address: str, namespace: str, id: str) -> Path:
    """Return where containerd's rule puts a shim's socket (compat.md, section 14)."""
    return _SHIM_SOCKETS / hashlib.sha256(f"{address}/{namespace}/{id}".encode()).hexdigest()


def entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _directories(directory: Path) -> list[Path]:
    return [path for path in entries(directory) if path.is_dir()]

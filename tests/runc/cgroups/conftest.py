"""A cgroup of each test's own in every hierarchy, which is gone after it; processes to put below it; and runc."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_root
from tests.harness.names import unique
from wherry.runc.cgroups.hierarchies import hierarchies

#: What is told of a container that only exists is not told of one that is being removed.
_PATIENCE = 5.0


def tops() -> list[Path]:
    """Return the mount points of all hierarchies."""
    mounted = hierarchies()
    points = [point for point, _top in mounted.by_controller.values()]
    return [Path(point) for point in dict.fromkeys([*points, *([mounted.unified] if mounted.unified else [])])]


@pytest.fixture
def parent() -> Iterator[str]:
    """An absolute cgroup path that nobody else has. The test removes what it makes below it."""
    need_root()
    name = unique("wherry-cgroups-")
    yield f"/{name}"
    left = [
        str(path) for top in tops() for path in sorted((top / name).glob("**/"), reverse=True) if path != top / name
    ]
    for path in (*left, *(str(top / name) for top in tops())):
        _kill(Path(path))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
    assert not left
    assert not [top for top in tops() if (top / name).exists()]


def _kill(cgroup: Path) -> None:
    """End what a failed test left, so that the directory can be removed."""
    deadline = time.monotonic() + _PATIENCE
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if (cgroup / "freezer.state").exists():
            (cgroup / "freezer.state").write_text("THAWED")
        while (pids := (cgroup / "cgroup.procs").read_text().split()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            time.sleep(0.01)


class Processes:
    """Children of the test."""

    def __init__(self) -> None:
        self.all: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.all.append(process)
        return process

    def sleep(self) -> int:
        """Return the pid of one that does nothing."""
        return self.start("sleep", "1000").pid

    def end(self) -> None:
        for process in self.all:
            process.kill()
            process.communicate()


@pytest.fixture
def processes(parent: str) -> Iterator[Processes]:
    """Processes that end before the cgroups are looked for."""
    started = Processes()
    yield started
    started.end()


class Runc:
    """Debian's runc with a root of its own, and containers that are created, not started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ids: list[str] = []
        rootfs = directory / "rootfs"
        (rootfs / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", rootfs / "bin/busybox")

    def command(self, *arguments: str, input: str | None = None, flags: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run it; its exit status and what it said."""
        with open(self._directory / "out", "w+") as out:
            # The container's process keeps the descriptor.
            status = subprocess.run(
                ["runc", "--root", str(self._directory / "root"), *flags, *arguments],
                input=input,
                stdin=None if input is not None else subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            ).returncode
            out.seek(0)
            return status, out.read()

    def create(
        self,
        cgroups_path: str | None,
        resources: Mapping[str, Any] | None,
        *,
        flags: tuple[str, ...] = (),
        annotations: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """Create a container; its id and, if that failed, what was said."""
        id = unique("wherry-cgroups-")
        self._ids.append(id)
        bundle = self._directory / id
        bundle.mkdir()
        linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")]}
        if cgroups_path is not None:
            linux["cgroupsPath"] = cgroups_path
        if resources is not None:
            linux["resources"] = dict(resources)
        spec = {
            "ociVersion": "1.0.2",
            "process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
            "root": {"path": str(self._directory / "rootfs")},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": linux,
            "annotations": dict(annotations or {}),
        }
        (bundle / "config.json").write_text(json.dumps(spec))
        status, said = self.command("create", "--bundle", str(bundle), id, flags=flags)
        return id, said if status else ""

    def paths(self, id: str) -> dict[str, str]:
        """Return what runc's state file has for `cgroup_paths`."""
        found: dict[str, str] = json.loads((self._directory / "root" / id / "state.json").read_text())["cgroup_paths"]
        return found

    def delete(self, id: str) -> None:
        self.command("delete", "--force", id)

    def close(self) -> None:
        for id in self._ids:
            self.delete(id)


@pytest.fixture
def runc(parent: str, tmp_path: Path) -> Iterator[Runc]:
    need_root("runc", "busybox")
    made = Runc(tmp_path)
    yield made
    made.close()

"""The runtimes that are compared, and the laboratory in which they run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root
from tests.harness.daemon import COMMANDS
from tests.probe.build import build
from tests.runc.differential.cases import HOST_ID, IDS
from tests.runc.differential.side import Laboratory

_KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture(scope="session")
def our_runtime() -> str:
    """wherry-runc, or what WHERRY_RUNC names: with Debian's runc there must be no difference."""
    program = os.environ.get("WHERRY_RUNC", str(COMMANDS / "wherry-runc"))
    need_root(program)
    return program


@pytest.fixture(scope="session")
def laboratory() -> Iterator[Laboratory]:
    need_root("runc", "cc", "unshare")
    known = {os.stat(f"/proc/self/ns/{kind}").st_ino: "host" for kind in _KINDS}
    with (
        _Namespaces(known, "joined", "--net", "--ipc", "--uts", "--pid", "--cgroup", "--time") as joinable,
        _Namespaces(known, "joined with user", "--user", "--net", "--ipc", "--uts") as of_user,
        tempfile.TemporaryDirectory(prefix="wherry-differential-") as directory,
    ):
        os.chmod(directory, 0o755)  # what has ids of a user namespace goes through it
        probe = build(Path(directory))
        made = Laboratory(Path(directory), probe, joinable.directory, of_user.directory, known)
        try:
            yield made
        finally:
            made.close()


class _Namespaces:
    """Namespaces that live as long as a process that sleeps in them; their inodes are added to `known`."""

    def __init__(self, known: dict[int, str], name: str, *flags: str) -> None:
        self._known, self._name, self._flags = known, name, flags

    def __enter__(self) -> _Namespaces:
        self._process = subprocess.Popen(
            ["unshare", *self._flags, "--fork", "--kill-child", "sh", "-c", "echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.read(1)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.directory = f"/proc/{children[0]}/ns"
        if "--user" in self._flags:
            for ids in ("uid_map", "gid_map"):
                Path(f"/proc/{children[0]}/{ids}").write_text(f"0 {HOST_ID} {IDS}\n")
        for kind in _KINDS:
            self._known.setdefault(os.stat(f"{self.directory}/{kind}").st_ino, self._name)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

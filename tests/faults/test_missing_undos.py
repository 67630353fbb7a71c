"""The harness is tried itself: with any one undo taken out of the code, some test fails.

A copy of the package without one statement is what the tests are run with, in namespaces of their own: what they leave
goes with those.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.names import MARK

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare"),
]

_TREE = Path(__file__).resolve().parents[2]

#: Its own /tmp and /run/containerd, and a first process that collects orphans.
_INSIDE = """
mount -t tmpfs tmpfs /tmp && mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd || exit 99
"$@" & wait $!
"""

_SHIM = ["tests/shim/test_undo.py", "tests/shim/test_terminal.py"]
_REQUESTS = ["tests/runtime/test_bad_input.py"]
_STEPS = [
    "tests/faults/test_kills.py::test_the_daemon_at_every_step",
    "tests/faults/test_kills.py::test_shims_at_every_step",
]
_MANAGER = "daemon/runtime/shim_manager.py"

#: The file, the statement that is taken out, in which function it stands, and the tests of which one must fail.
_UNDOS = [
    ("shim/init.py", "undo.callback(self._unmount)", "create", _SHIM),
    ("shim/init.py", "undo.callback(_unlink, self._pid_file)", "_launch", _SHIM),
    ("shim/init.py", "undo.push_async_callback(self._delete_half_made)", "_launch", _SHIM),
    ("shim/init.py", "self._unmount()", "delete", _STEPS),
    ("shim/exec.py", "undo.callback(self._fail)", "start", [*_SHIM, "tests/shim/test_states.py"]),
    ("shim/container.py", "record.write_exit", "", _STEPS),
    (_MANAGER, "undo.callback(bundle.delete)", "_create", _REQUESTS),
    (_MANAGER, "undo.push_async_callback(self._end_shim, task)", "_create", _REQUESTS),
    (_MANAGER, "task.shim.remove_socket()", "_forget", _STEPS),
    (_MANAGER, "task.bundle.delete()", "_forget", _STEPS),
    (_MANAGER, "await leftovers.delete_container(bundle)", "_clean_up", _STEPS),
    (_MANAGER, "mount.unmount_all(bundle.rootfs, mount.MNT_DETACH)", "_clean_up", _STEPS),
    (_MANAGER, "shim.remove_socket()", "_clean_up", _STEPS),
    (_MANAGER, "bundle.delete()", "_clean_up", _STEPS),
    (_MANAGER, "status, at = seen[0], typeurl.timestamp(seen[1])", "_clean_up", ["tests/runtime/test_survival.py"]),
    (_MANAGER, "await self._clean_up_silently(bundle)", "_recover_one", _STEPS),
    (_MANAGER, "await self._clean_up(bundle, shim)", "_recover_one", _STEPS),
    (_MANAGER, "await self._end_shim(task)", "_recover_one", _STEPS),
]


def without(source: str, statement: str, function: str) -> str:
    """Return a module's source with every occurrence of a statement in one of its functions taken out."""
    lines, inside, found = [], not function, 0
    for line in source.splitlines(keepends=True):
        words = line.split("(")[0].split()
        if "def" in words:
            inside = not function or words[-1] == function
        if inside and line.strip().startswith(statement):
            line = line.replace(line.strip(), "pass")
            found += 1
        lines.append(line)
    assert found, f"{statement} is not in {function} any more"
    return "".join(lines)


@pytest.fixture
def mark() -> Iterator[str]:
    """A part of all names, by which cgroups are found and removed afterwards."""
    made = f"u{secrets.token_hex(3)}u"
    yield made
    for top in Path("/sys/fs/cgroup").glob(f"*/*{made}*"):
        for directory, _directories, _files in os.walk(top, topdown=False):
            os.rmdir(directory)


@pytest.mark.parametrize(("file", "statement", "function", "tests"), _UNDOS)
def test_it_is_missed(mark: str, file: str, statement: str, function: str, tests: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="wherry-undo-", dir="/var/tmp") as place:
        shutil.copytree(_TREE / "src", place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        module = Path(place, "wherry", file)
        module.write_text(without(module.read_text(), statement, function))
        command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["sh", "-c", _INSIDE, "sh", sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*command, "-p", "no:xdist", *tests],
            check=False,
            cwd=_TREE,
            env={**os.environ, "PYTHONPATH": place, MARK: mark},
            capture_output=True,
            text=True,
        )
    print(ended.stdout[-1000:])
    assert ended.returncode == 1, f"nobody missed it ({ended.returncode}):\n{ended.stdout}{ended.stderr}"

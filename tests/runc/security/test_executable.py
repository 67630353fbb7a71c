"""CVE-2019-5736: a container that writes to the program of the runtime, which becomes the container's process.

The victims are copies of interpreters, never the machine's own: Debian's, which has libpython in itself, one that has
it as a library, and one that was built from source by pyenv, where there is such a one, with a prefix of its own.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.runc.security.laboratory import DOCKER_CAPABILITIES, Laboratory, Outcome

_PATIENCE = 15.0
_DEBIAN = Path("/usr/bin/python3.11")
_LIBRARY = "libpython3.11.so.1.0"
_MAIN = "int Py_BytesMain(int, char **); int main(int argc, char **argv) { return Py_BytesMain(argc, argv); }"
_SOURCE = Path(__file__).parents[3] / "src"
_SETS = ("bounding", "effective", "permitted")


@dataclass
class Victim:
    """An interpreter that may be overwritten."""

    directory: Path
    program: Path

    def state(self) -> dict[str, str]:
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


_DEBIANS, _SHARED, _BUILT = "Debian's", "libpython", "pyenv's"


def _built() -> Path:
    """Return the newest libpython that pyenv has built here."""
    found = Path.home().glob(".pyenv/versions/3.1[1-9].*/lib/libpython3.*.so.1.0")
    versions = {tuple(map(int, re.findall(r"\d+", path.parents[1].name))): path for path in found}
    if not versions:
        pytest.skip("needs an interpreter of pyenv's with a shared library")
    return versions[max(versions)]


@pytest.fixture
def victim(request: pytest.FixtureRequest, laboratory: Laboratory) -> Victim:
    """A fresh copy of an interpreter."""
    directory = laboratory.directory / "victim"
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "bin").mkdir(parents=True)
    (directory / "lib").mkdir()
    program = directory / "bin/python3.11"
    if request.param == _BUILT:
        library = _built()
        version = library.name.removeprefix("libpython").removesuffix(".so.1.0")
        program = directory / f"bin/python{version}"
        (directory / f"lib/python{version}").symlink_to(library.parent / f"python{version}")
    else:
        library = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", _LIBRARY)
        (directory / "pyvenv.cfg").write_text("home = /usr/bin\n")
    if request.param == _DEBIANS:
        shutil.copy(_DEBIAN, program)
        return Victim(directory, program)
    if not library.exists():
        pytest.skip("needs libpython3.11")
    shutil.copy(library, directory / "lib")
    # It finds its library beside itself, as uv's builds do.
    link: list[str | Path] = [
        "-x",
        "c",
        "-",
        "-x",
        "none",
        directory / "lib" / library.name,
        "-Wl,-rpath,$ORIGIN/../lib",
        "-o",
        program,
    ]
    subprocess.run(["cc", *link], input=_MAIN, text=True, check=True)
    return Victim(directory, program)


def _attack(
    laboratory: Laboratory,
    victim: Victim,
    changes: dict[str, Any],
    files: dict[str, str | bytes | None],
    *,
    protect: str,
    without: Sequence[str] = (),
    exec: dict[str, Any] | None = None,
) -> tuple[Outcome, str]:
    """Run a container by a victim that ends then, and return what the container said when it has tried everything."""
    loader = {"lib64/ld-linux-x86-64.so.2": laboratory.loader.read_bytes()}
    bundle = laboratory.bundle(changes, {**loader, **files})
    (bundle / "rootfs/lib64/ld-linux-x86-64.so.2").chmod(0o755)
    steps: list[Any] = ["create", "start"]
    if exec is not None:
        steps += [{"await": "watching"}, {"exec": exec, "output": str(bundle / "exec.output"), "wait": False}]
    name = f"{laboratory.name}-{bundle.name}"
    outcome = laboratory.run(
        bundle,
        steps=steps,
        id=name,
        keep=True,
        protect=protect,
        without=without,
        interpreter=victim.program,
    )
    try:
        assert not outcome.error, outcome.answer
        deadline = time.monotonic() + _PATIENCE
        while True:
            said = "".join(path.read_text(errors="replace") for path in bundle.glob("*output"))
            if "overwritten" in said:
                return outcome, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
    finally:
        ended = laboratory.run(bundle, steps=[{"load": name}])
        assert not ended.error, ended.answer


_WAYS: dict[str, tuple[dict[str, Any], dict[str, str | bytes | None], dict[str, Any] | None]] = {
    "link": ({"process.args": ["/entry"]}, {"entry": "-> /proc/self/exe"}, None),
    "script": ({"process.args": ["/entry"]}, {"entry": "#!/proc/self/exe\n"}, None),
    "exec": (
        {"process.args": ["/attacker", "overwrite-watch", "3"]},
        {},
        {"args": ["/proc/self/exe"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    ),
}


def _capabilities(*more: str) -> dict[str, list[str]]:
    return {kind: [*DOCKER_CAPABILITIES, *more] for kind in _SETS}


@pytest.mark.parametrize(
    ("victim", "way"),
    [*((_DEBIANS, way) for way in _WAYS), (_SHARED, "link"), (_BUILT, "link"), (_BUILT, "exec")],
    indirect=["victim"],
)
@pytest.mark.parametrize("protect", ["", "memfd", "mount"])
def test_program_overwritten(laboratory: Laboratory, victim: Victim, way: str, protect: str) -> None:
    changes, files, exec = _WAYS[way]
    before = victim.state()
    changes = {**changes, "process.capabilities": _capabilities()}
    outcome, said = _attack(laboratory, victim, changes, files, protect=protect, exec=exec)
    assert outcome.answer["protected"] == bool(protect)
    assert ("not overwritten" not in said) == (not protect), said
    assert (victim.state() != before) == (not protect), said


@pytest.mark.parametrize("victim", [_DEBIANS], indirect=True)
@pytest.mark.parametrize("protect", ["mount-kept", "mount"])
def test_read_only_mount_made_writable(laboratory: Laboratory, victim: Victim, protect: str) -> None:
    """With CAP_SYS_ADMIN it could be, for as long as somebody has the mount's own descriptor: nobody may."""
    before = victim.state()
    changes = {"process.args": ["/entry"], "process.capabilities": _capabilities("CAP_SYS_ADMIN")}
    _, said = _attack(laboratory, victim, changes, {"entry": "-> /proc/self/exe"}, protect=protect)
    assert (victim.state() != before) == (protect == "mount-kept"), said
    assert protect == "mount-kept" or "made writable" not in said, said


@pytest.mark.parametrize("victim", [_SHARED, _BUILT], indirect=True)
@pytest.mark.parametrize("without", [(), ("dumpable",)])
def test_library_overwritten(laboratory: Laboratory, victim: Victim, without: tuple[str, ...]) -> None:
    """libpython is not protected by how the program is run, but by nobody's being let near it before the program."""
    before = victim.state()
    changes = {
        "process.args": ["/attacker", "overwrite-library", "libpython3.", "2.5"],
        "process.capabilities": _capabilities("CAP_CHECKPOINT_RESTORE"),
    }
    process = {
        "args": ["/attacker", "ids"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "capabilities": _capabilities("CAP_CHECKPOINT_RESTORE"),
    }
    _, said = _attack(laboratory, victim, changes, {}, protect="memfd", without=[*without, "slow_exec"], exec=process)
    assert (victim.state() != before) == bool(without), said
    assert without or "not overwritten: Operation not permitted" in said or "Permission denied" in said, said


_COMMAND = """
import sys
sys.path[:0] = [{source!r}]
from wherry.linux import own_executable
{without}
from wherry.runc.command import entry
sys.exit(entry.main())
"""


@pytest.mark.parametrize("victim", [_DEBIANS, _BUILT], indirect=True)
@pytest.mark.parametrize("how", ["run", "exec"])
@pytest.mark.parametrize("without", ["", "own_executable.is_protected = lambda: True"])
def test_program_of_the_command_overwritten(laboratory: Laboratory, victim: Victim, how: str, without: str) -> None:
    """wherry-runc goes over to a protected file by itself."""
    before = victim.state()
    changes, files, _ = _WAYS["link" if how == "run" else "exec"]
    changes = {**changes, "process.capabilities": _capabilities()}
    loader = {"lib64/ld-linux-x86-64.so.2": laboratory.loader.read_bytes()}
    bundle = laboratory.bundle(changes, {**loader, **files})
    (bundle / "rootfs/lib64/ld-linux-x86-64.so.2").chmod(0o755)
    name = f"{laboratory.name}-{bundle.name}"
    code = _COMMAND.format(source=str(_SOURCE), without=without)
    command: list[str | Path] = [victim.program, "-c", code, "--root", laboratory.root]

    def call(*words: str | Path) -> None:
        with open(bundle / "output", "a") as output:
            subprocess.run([*command, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=30)

    call("run", "--detach", "--bundle", bundle, name)
    if how == "exec":
        call("exec", "--detach", name, "/proc/self/exe")
    try:
        deadline = time.monotonic() + _PATIENCE
        while "overwritten" not in (said := (bundle / "output").read_text(errors="replace")):
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
    finally:
        ended = laboratory.run(bundle, steps=[{"load": name}])
        assert not ended.error, ended.answer
    assert (victim.state() != before) == bool(without), said

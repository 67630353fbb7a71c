"""Compiled seccomp filters, kept: found again, and nothing else taken for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runc.seccomp_profiles import compiled, default, profile, rule
from wherry.runc import seccomp, seccomp_cache


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is in memory; counts what is compiled."""
    made: list[int] = []
    original = seccomp._compile

    def count(document: dict[str, Any]) -> tuple[bytes, int, bool]:
        made.append(1)
        return original(document)

    monkeypatch.setattr(seccomp, "_compiled", {})
    monkeypatch.setattr(seccomp, "_compile", count)
    return made


def forget() -> None:
    seccomp._compiled.clear()


def test_what_was_compiled_is_kept(tmp_path: Path, compilations: list[int]) -> None:
    directory = tmp_path / "cache"
    document = profile(rule("sync", "NOTIFY"), listenerPath="/a", listenerMetadata="one")
    first = compiled(document, cache_directory=str(directory))
    # Where the listener goes is no matter of the program.
    second = compiled({**document, "listenerPath": "/b"}, cache_directory=str(directory))
    forget()
    third = compiled(json.loads(json.dumps(document)), cache_directory=str(directory))
    assert len(compilations) == 1
    assert first.program == second.program == third.program
    assert (first.flags, first.notify) == (third.flags, third.notify) == (8, True)
    assert second.listener_path == "/b"
    assert directory.stat().st_mode & 0o777 == 0o700
    (file,) = directory.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    compiled({**document, "defaultErrnoRet": 2}, cache_directory=str(directory))
    assert len(compilations) == 2


def test_another_process_finds_the_same(tmp_path: Path) -> None:
    forget()
    compiled(default(), cache_directory=str(tmp_path / "cache"))
    script = (
        "import json, sys; from wherry.runc import seccomp; document = json.loads(sys.stdin.read());"
        "seccomp._loaded = None; print(len(seccomp.compile_filter(document, cache_directory=sys.argv[1]).program));"
        "assert 'wherry.runc.libseccomp' not in sys.modules and 'hashlib' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cache")],
        input=json.dumps(default()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(compiled(default()).program)


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def _with_valid_digest(file: Path, place: int, value: bytes) -> None:
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    rest = bytes(data[seccomp_cache.DIGEST_SIZE :])
    file.write_bytes(seccomp_cache.digest(rest) + rest)


def _make_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def _make_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "program": lambda file: _flip(file, -3),
    "digest": lambda file: _flip(file, 0),
    "flags": lambda file: _flip(file, 80),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-8]),
    "empty": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + bytes(8)),
    "other-profile": lambda file: _with_valid_digest(file, 48, bytes(32)),
    "other-format": lambda file: _with_valid_digest(file, 32, b"another"),
    "other-library": lambda file: _with_valid_digest(file, 88, bytes(8)),
    "open-file": lambda file: file.chmod(0o644),
    "foreign-file": lambda file: os.chown(file, 1234, 1234),
    "link": lambda file: file.symlink_to(file.rename(file.with_name("elsewhere"))),
    "fifo": _make_fifo,
    "directory": _make_directory,
    "open-directory": lambda file: file.parent.chmod(0o770),
    "foreign-directory": lambda file: os.chown(file.parent, 1234, 1234),
    "linked-directory": lambda file: file.parent.symlink_to(file.parent.rename(file.parent.with_name("moved"))),
}


@pytest.mark.root
@pytest.mark.parametrize("name", DAMAGE)
def test_nothing_else_is_loaded(name: str, tmp_path: Path, compilations: list[int]) -> None:
    directory = tmp_path / "cache"
    document = profile(rule("sync", "ALLOW"))
    first = compiled(document, cache_directory=str(directory))
    (file,) = directory.iterdir()
    DAMAGE[name](file)
    forget()
    second = compiled(document, cache_directory=str(directory))
    assert len(compilations) == 2
    assert (second.program, second.flags) == (first.program, first.flags)


@pytest.mark.root
def test_a_damaged_file_is_replaced(tmp_path: Path, compilations: list[int]) -> None:
    directory = tmp_path / "cache"
    compiled(profile(), cache_directory=str(directory))
    (file,) = directory.iterdir()
    _flip(file, -1)
    for _ in range(2):
        forget()
        compiled(profile(), cache_directory=str(directory))
    assert len(compilations) == 2
    assert list(directory.iterdir()) == [file]


def test_a_directory_that_cannot_be_made_is_no_error(tmp_path: Path, compilations: list[int]) -> None:
    for _ in range(2):
        forget()
        compiled(profile(), cache_directory=str(tmp_path / "not/there"))
    assert len(compilations) == 2


def test_the_directory_does_not_grow(tmp_path: Path, compilations: list[int]) -> None:
    document = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("sync", "ERRNO")]}
    for number in range(70):
        compiled({**document, "number": number}, cache_directory=str(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 64
    compiled({**document, "number": 69}, cache_directory=str(tmp_path / "cache"))
    assert len(compilations) == 70


def test_a_profile_that_is_known_takes_no_time(tmp_path: Path) -> None:
    """At most 0.3 ms from the file, with room for a machine that is busy."""
    document, directory = default(), str(tmp_path / "cache")
    forget()
    compiled(document, cache_directory=directory)
    times = []
    for _ in range(50):
        forget()
        started = time.perf_counter()
        compiled(document, cache_directory=directory)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.0003

"""What is printed for programs: spec, features, version, the log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.harness.command import as_user, run
from tests.runc.command.runtime import Runtime
from wherry.runc.command.features import MOUNT_OPTIONS
from wherry.runc.command.log import _quoted
from wherry.runc.mount_options import parse_mount_options


@pytest.mark.parametrize("flags", [[], ["--rootless"]])
def test_spec(ours: Runtime, tmp_path: Path, flags: list[str]) -> None:
    for program in (ours.program, "runc"):
        directory = tmp_path / os.path.basename(program)
        directory.mkdir()
        run([program, "spec", *flags, "--bundle", directory]).check()
    assert (tmp_path / "wherry-runc/config.json").read_bytes() == (tmp_path / "runc/config.json").read_bytes()
    again = run([ours.program, "spec", "-b", tmp_path / "runc"])
    assert (again.code, "File config.json exists. Remove it first" in again.error_text) == (1, True)


def test_features(ours: Runtime) -> None:
    own = json.loads(ours("features").check().text)
    theirs = json.loads(run(["runc", "features"]).check().text)
    assert own["hooks"] == theirs["hooks"]
    assert set(own["mountOptions"]) - set(theirs["mountOptions"]) == {"idmap", "ridmap"}
    assert not set(theirs["mountOptions"]) - set(own["mountOptions"])
    assert set(own["linux"]["namespaces"]) - set(theirs["linux"]["namespaces"]) == {"time"}
    assert own["linux"]["capabilities"] == theirs["linux"]["capabilities"]
    for name in ("actions", "operators"):
        assert own["linux"]["seccomp"][name] == theirs["linux"]["seccomp"][name]
    assert set(theirs["linux"]["seccomp"]["archs"]) <= set(own["linux"]["seccomp"]["archs"])


def test_mount_options_are_known() -> None:
    """An option that the runtime does not know would be the file system's."""
    unknown = {option for option in MOUNT_OPTIONS.split() if parse_mount_options([option]).data}
    assert unknown <= {"acl", "noacl"}


def test_version(ours: Runtime) -> None:
    """As dockerd takes it apart: the word version, then lines with colons."""
    first, *rest = ours("--version").check().text.splitlines()
    assert re.fullmatch(r"wherry-runc version \d+\.\d+\.\d+\S*", first)
    fields = dict(line.split(": ", 1) for line in rest)
    assert fields.keys() >= {"commit", "spec"}


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_file(ours: Runtime, runc: Runtime, form: str) -> None:
    logs = []
    for runtime in (ours, runc):
        log = runtime.directory / "log"
        for words in (["state", "nonexistent"], ["exec", "nonexistent", "true"], ["kill", "a", "b", "c"]):
            result = runtime("--log", log, "--log-format", form, *words)
            assert result.code == (255 if words[0] == "exec" else 1)
            assert not result.error_text.startswith(("time=", "{"))
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+(Z|[+-]\d\d:\d\d)", "<time>", log.read_text())
        logs.append(text.replace("wherry-runc: ", "runc: "))
    assert logs[0] == logs[1]


def test_log_of_one_whose_standard_error_takes_nothing(ours: Runtime, runc: Runtime) -> None:
    """containerd's shim opens /dev/null for reading where nobody wants a container's output."""
    for runtime in (ours, runc):
        id, log = runtime.configure("absent-program"), runtime.directory / "log"
        words = ["--log", str(log), "--log-format", "json", "create", "--bundle", str(runtime.bundle), id]
        with open(os.devnull) as null:
            created = subprocess.run([*runtime.command, *words], stdin=null, stdout=null, stderr=null, timeout=20)
        assert created.returncode == 1
        assert "executable file not found in $PATH" in json.loads(log.read_text().splitlines()[-1])["msg"]


def test_log_exists_after_success(ours: Runtime) -> None:
    """Callers open it whatever came of the call."""
    log = ours.directory / "log"
    ours("--log", log, "list").check()
    assert log.read_bytes() == b""
    ours("--debug", "--log", log, "--log-format", "json", "list").check()
    assert [json.loads(line)["level"] for line in log.read_text().splitlines()] == ["debug"]


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain-1.2/x@y^z+_", "plain-1.2/x@y^z+_"),
        ("", ""),
        ('a "b" \\', '"a \\"b\\" \\\\"'),
        ("a\n\t\x00\x7f", '"a\\n\\t\\x00\\x7f"'),
        ("ä\u200b", '"ä\\u200b"'),
    ],
)
def test_quoting(text: str, quoted: str) -> None:
    assert _quoted(text) == quoted


def test_root_of_a_user(ours: Runtime) -> None:
    """Without --root: a directory that is not runc's, which whoever tidies up leaves alone."""
    with tempfile.TemporaryDirectory(prefix="wherry-command-") as directory:
        os.chmod(directory, 0o777)
        run([*as_user(65534), ours.program, "list"], env={"XDG_RUNTIME_DIR": directory}).check()
        assert os.stat(f"{directory}/wherry-runc").st_mode & 0o7777 == 0o1700

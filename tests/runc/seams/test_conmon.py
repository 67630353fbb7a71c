"""conmon, with which podman and CRI-O watch containers, called as they call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need_root
from tests.harness import leaks
from tests.harness.command import environment
from tests.runc.command.runtime import Runtime
from tests.runc.seams.conftest import PROGRAMS
from tests.runtime.test_survival import until

_TIMEOUT = 20.0


class Conmon:
    """conmon with a runtime: creates containers, and leaves a log and their exit codes in a directory."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.exits = runtime.directory / "exits"
        for directory in (self.exits, runtime.directory / "sockets"):
            directory.mkdir()

    def __call__(self, id: str, *flags: str, name: str = "") -> dict[str, Any]:
        """Have a container created, or another process run in it to its end.

        Returns what it says, under "data": a pid or an exit code, a negative number for what went wrong.
        """
        name = name or id
        own = self.runtime.directory
        words = {
            "api-version": 1,
            "cid": id,
            "cuuid": name,
            "name": name,
            "runtime": self.runtime.program,
            "bundle": self.runtime.bundle,
            "container-pidfile": own / f"{name}.pid",
            "conmon-pidfile": own / f"{name}.conmon",
            "exit-dir": self.exits,
            "log-path": f"k8s-file:{self.log_file(name)}",
            "persist-dir": own,
            "socket-dir-path": own / "sockets",
        }
        runtime_flags = {"root": self.runtime.root, "log": own / "oci-log", "log-format": "json"}
        arguments = [f"--{flag}={value}" for flag, value in words.items()]
        arguments += [f"--runtime-arg=--{flag}={value}" for flag, value in runtime_flags.items()]
        # It tells of the pid by one pipe; by the other it is told to go on.
        told, tells = os.pipe()
        goes_on, go_on = os.pipe()
        try:
            os.write(go_on, b"\0")
            subprocess.run(
                ["conmon", *arguments, *flags],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment({"_OCI_SYNCPIPE": str(tells), "_OCI_STARTPIPE": str(goes_on)}),
                pass_fds=(tells, goes_on),
                timeout=_TIMEOUT,
            )
        finally:
            for fd in (tells, goes_on, go_on):
                os.close(fd)
        with open(told, "rb") as file:
            said = [json.loads(line) for line in (file if "--exec" in flags else [file.readline()])]
        last: dict[str, Any] = said[-1]
        return last

    def log_file(self, name: str) -> Path:
        return self.runtime.directory / f"{name}.log"

    def log(self, name: str) -> list[tuple[str, str]]:
        """Return the streams and lines of what a container wrote."""
        lines = self.log_file(name).read_text().splitlines()
        return sorted((match[1], match[2]) for line in lines if (match := re.match(r"\S+ (\w+) F (.*)", line)))

    def exit_code(self, name: str) -> int:
        """Wait for the end of a container and return the exit code that is written down then."""
        until((self.exits / name).exists, "written down an exit code")
        return int((self.exits / name).read_text())

    def failure(self) -> str:
        """Return the runtime's reason, which it was told to log where the callers of conmon look for it."""
        lines = (self.runtime.directory / "oci-log").read_text().splitlines()
        return [str(json.loads(line)["msg"]) for line in lines if json.loads(line)["level"] == "error"][-1]

    def close(self) -> None:
        """See that each has ended with its container. AssertionError."""
        self.runtime.close()
        assert leaks.remaining(lambda: list(leaks.processes(f"{self.runtime.directory}/"))) == []


@pytest.fixture(params=PROGRAMS)
def conmon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Conmon]:
    """Each with its runtime: what is expected of ours is what runc does."""
    need_root("conmon", *PROGRAMS.values())
    runtime = Runtime(PROGRAMS[request.param], tmp_path)
    made = Conmon(runtime)
    yield made
    made.close()


def test_life(conmon: Conmon) -> None:
    id = conmon.runtime.configure("sh", "-c", "echo out; echo err >&2; read line || exit 5")
    said = conmon(id)
    assert json.loads(conmon.runtime("state", id).text)["pid"] == said["data"]
    assert (conmon.runtime.directory / f"{id}.pid").read_text() == str(said["data"])
    conmon.runtime("start", id).check()
    assert conmon.exit_code(id) == 5
    assert conmon.log(id) == [("stderr", "err"), ("stdout", "out")]
    conmon.runtime("delete", id).check()


def test_terminal(conmon: Conmon) -> None:
    id = conmon.runtime.configure("sh", "-c", "ls -l /proc/self/fd/0; sleep 1000", terminal=True)
    assert conmon(id, "--terminal")["data"] > 0
    conmon.runtime("start", id).check()
    until(lambda: "/dev/pts/0" in conmon.log_file(id).read_text(), "on a terminal")
    conmon.runtime("kill", id, "KILL").check()
    assert conmon.exit_code(id) == 137
    conmon.runtime("delete", id).check()


@pytest.mark.parametrize(
    ("program", "reason"), [("absent", "executable file not found in $PATH"), ("/etc", "permission denied")]
)
def test_what_cannot_be_run(conmon: Conmon, program: str, reason: str) -> None:
    id = conmon.runtime.configure(program)
    (conmon.runtime.bundle / "rootfs/etc").mkdir()
    said = conmon(id)
    assert said["data"] < 0
    assert conmon.failure().endswith(f'unable to start container process: exec: "{program}": {reason}')
    assert conmon.runtime("list", "-q").text == ""


def test_killed_in_time(conmon: Conmon) -> None:
    id = conmon.runtime.configure("sleep", "1000")
    conmon(id, "--timeout", "1")
    conmon.runtime("start", id).check()
    assert conmon.exit_code(id) == -1  # its own word for it
    conmon.runtime("delete", id).check()


def test_exec(conmon: Conmon) -> None:
    id = conmon.runtime.configure("sleep", "1000")
    conmon(id)
    conmon.runtime("start", id).check()
    document = json.loads((conmon.runtime.bundle / "config.json").read_text())["process"]
    for number, args in enumerate((["sh", "-c", "echo in exec; exit 6"], ["absent"])):
        path = conmon.runtime.directory / "process.json"
        path.write_text(json.dumps({**document, "args": args}))
        name = f"{id}-{number}"
        said = conmon(id, "--exec", "--exec-process-spec", str(path), name=name)
        if args == ["absent"]:
            assert said["data"] < 0 and conmon.failure().endswith("executable file not found in $PATH")
        else:
            assert said["data"] == 6
            assert conmon.log(name) == [("stdout", "in exec")]
    conmon.runtime("delete", "--force", id).check()
    # The end of an exec has been written down in the container's name before.
    until(lambda: conmon.exit_code(id) == 137, "told of the container's end")

"""Bundles that attack, run by `runner.py` with or without a defence, and what is left of the host afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import leaks
from tests.runc.differential.cases import base, changed

_HERE = Path(__file__).parent
RUNNER = _HERE / "runner.py"
_BUSYBOX = Path("/bin/busybox")
_TIMEOUT = 40.0

#: A list of steps for a container that runs to its end.
RUN = ("create", "start", "wait")
#: What a container may do that docker lets it do.
DOCKER_CAPABILITIES = """CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID
 CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE""".split()


@dataclass
class Outcome:
    """What came of a job."""

    answer: dict[str, Any]
    output: str
    #: What the runner itself printed: nothing, if all is well.
    errors: str
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> str:
        return str(self.answer.get("error", ""))

    @property
    def is_clear(self) -> bool:
        """Whether it failed with one line of an error that is meant for a user."""
        kind = str(self.answer.get("kind", ""))
        return bool(self.error) and not kind.startswith("!") and "\n" not in self.error.strip() and not self.errors


class Laboratory:
    """Where attacks run, each under an id, a cgroup and directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name
        self.root = directory / "state"
        self._count = 0
        self.attacker = directory / "attacker"
        self.loader = directory / "loader"
        flags = ["-O1", "-Wall", "-nostdlib", "-static-pie", "-fPIE", "-fno-stack-protector"]
        subprocess.run(["cc", "-O2", "-Wall", "-static", "-o", self.attacker, _HERE / "attacker.c"], check=True)
        subprocess.run(["cc", *flags, "-o", self.loader, _HERE / "loader.c"], check=True)
        self.busybox = directory / "busybox"
        shutil.copy(_BUSYBOX, self.busybox)

    def bundle(
        self, changes: Mapping[str, Any] | None = None, files: Mapping[str, str | bytes | None] | None = None
    ) -> Path:
        """Make a bundle with a busybox and the attacker in its image, and return its path.

        `files` are made in the root file system: content by path, a directory where the path ends in "/", a link where
        the content begins with "-> ", nothing but a removal where the content is None.
        """
        self._count += 1
        bundle = self.directory / f"b{self._count}"
        rootfs = bundle / "rootfs"
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
            (rootfs / name).mkdir(parents=True)
        (rootfs / "tmp").chmod(0o1777)
        (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
        os.link(self.attacker, rootfs / "attacker")
        for name in ("busybox", "sh", "cat", "ls", "id", "sleep", "readlink", "true", "mount"):
            os.link(self.busybox, rootfs / "bin" / name)
        _make(rootfs, files or {})
        document = base()
        document["process"]["args"] = ["/attacker", "fds"]
        document["process"]["noNewPrivileges"] = False
        document["linux"]["cgroupsPath"] = f"/{self.name}-{self._count}"
        for name, value in (changes or {}).items():
            changed(document, {name: value})
        (bundle / "config.json").write_text(json.dumps(document))
        (bundle / "host").mkdir()
        (bundle / "host/canary").write_text("alive")
        return bundle

    def job(self, bundle: Path, *, without: Iterable[str] = (), steps: Sequence[Any] = RUN, **more: Any) -> Path:
        """Write a job for a bundle and return its file."""
        self._count += 1
        path = bundle / f"job{self._count}"
        job = {
            "root": str(self.root),
            "id": f"{self.name}-{self._count}",
            "bundle": str(bundle),
            "steps": steps,
            "without": list(without),
            "output": f"{path}.output",
            "answer": f"{path}.answer",
            **more,
        }
        path.write_text(json.dumps(job))
        Path(job["output"]).touch()
        return path

    def run(
        self,
        bundle: Path,
        *,
        without: Iterable[str] = (),
        steps: Sequence[Any] = RUN,
        interpreter: str | Path = sys.executable,
        command: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Outcome:
        """Run a job to its end. AssertionError if the host has changed or anything is left, unless it is a control."""
        path = self.job(bundle, without=without, steps=steps, **more)
        process = subprocess.run(
            [*command, str(interpreter), str(RUNNER), str(path)],
            capture_output=True,
            timeout=_TIMEOUT,
            pass_fds=pass_fds,
            env={**os.environ, **(environment or {})},
            text=True,
        )
        answer = Path(f"{path}.answer")
        assert answer.exists(), process.stdout + process.stderr
        outputs = {each.name: each.read_text() for each in bundle.iterdir() if each.name.startswith("exec")}
        output = Path(f"{path}.output").read_text(errors="replace")
        outcome = Outcome(json.loads(answer.read_text()), output, process.stdout + process.stderr, outputs)
        if not without:
            assert not outcome.answer.get("traceback"), outcome.answer["traceback"]
            assert "clean-up" not in outcome.answer, outcome.answer
            assert self.canary(bundle) == "alive" and sorted(os.listdir(bundle / "host")) == ["canary"]
        return outcome

    def canary(self, bundle: Path) -> str:
        """Return what a file of the host's beside the root file system says."""
        return (bundle / "host/canary").read_text()

    def left(self) -> list[str]:
        """Return what containers have left: state, cgroups and mounts."""
        left = [f"state: {path}" for path in leaks.states(self.root)]
        left += [f"cgroup: {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{self.name}-*")]
        left += [f"cgroup: {path}" for path in Path("/sys/fs/cgroup").glob(f"{self.name}-*")]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return left + [f"mount: {line}" for line in mounts if f"{self.directory}/" in line]


def _make(rootfs: Path, files: Mapping[str, str | bytes | None]) -> None:
    for name, content in files.items():
        path = rootfs / name
        if content is None or (
            path.is_dir() and not path.is_symlink() and isinstance(content, str) and content[:3] == "-> "
        ):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        if content is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        elif content.startswith("-> "):
            path.symlink_to(content[3:])
        else:
            path.write_text(content)
            path.chmod(0o755)

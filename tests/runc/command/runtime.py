"""A runtime's command line, called on bundles with busybox, and what its calls leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.harness import leaks
from tests.harness.command import Result, as_user, environment, run

_numbers = itertools.count()


@dataclass
class Runtime:
    """A program with runc's command line, with a root directory and a bundle of its own.

    With a `user` it is run by that, without privileges; `within` is a command that runs it, such as nsenter.
    """

    program: str
    directory: Path
    ids: list[str] = field(default_factory=list)
    user: int = 0
    within: Sequence[str] = ()

    @property
    def root(self) -> Path:
        return self.directory / "state"

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle"

    @property
    def command(self) -> list[str]:
        return [*as_user(self.user), *self.within, self.program, "--root", str(self.root)]

    def __call__(self, *words: str | Path, input: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
        """Run a command to its end. What a container holds on to must be no pipe: see `detached`."""
        return run([*self.command, *words], input=input, env=env, timeout=60)

    def detached(self, *words: str | Path) -> Result:
        """Run a command whose container goes on, with its streams in a file."""
        output = self.directory / "output"
        with open(output, "wb") as file:
            arguments = [*self.command, *(str(word) for word in words)]
            code = subprocess.run(
                arguments,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(),
                timeout=20,
            ).returncode
        return Result(tuple(arguments), code, b"", output.read_bytes())

    def id(self) -> str:
        """Return an id that no other container has."""
        self.ids.append(f"wherry-command-{os.getpid()}-{next(_numbers)}")
        return self.ids[-1]

    def configure(self, *args: str, **process: Any) -> str:
        """Write the bundle for a new container's id, which is returned; its process runs `args`."""
        id = self.id()
        rootfs = self.bundle / "rootfs"
        if not rootfs.exists():
            (rootfs / "bin").mkdir(parents=True)
            shutil.copy("/usr/bin/busybox", rootfs / "bin/busybox")
            for applet in ("sh", "sleep", "cat", "stty", "env", "ls", "id", "true"):
                (rootfs / "bin" / applet).symlink_to("busybox")
        for old in [self.bundle / "config.json"]:
            old.unlink(missing_ok=True)
        if self.user:
            for path in (self.bundle, *self.bundle.rglob("*")):
                os.chown(path, self.user, self.user, follow_symlinks=False)
        rootless = ["--rootless"] if self.user else []
        run([*as_user(self.user), "runc", "spec", *rootless, "--bundle", self.bundle]).check()
        document = json.loads((self.bundle / "config.json").read_text())
        document["process"] |= {"terminal": False, "args": list(args), **process}
        document["annotations"] = {"org.example.b": "<b&c>", "org.example.a": "1"}
        if not self.user:
            document["linux"]["cgroupsPath"] = f"/{id}"
        (self.bundle / "config.json").write_text(json.dumps(document))
        return id

    def wait_for(self, id: str, status: str) -> None:
        deadline = time.monotonic() + 10
        while json.loads(self("state", id).check().text)["status"] != status:
            assert time.monotonic() < deadline, f"{id} is not {status}"
            time.sleep(0.02)

    def close(self) -> None:
        """Remove what there is, and see that nothing is left. AssertionError."""
        for id in self.ids:
            self("delete", "--force", id)
        left = leaks.remaining(self._left)
        with contextlib.suppress(OSError):
            self.root.rmdir()
        assert left == []

    def _left(self) -> list[str]:
        cgroups = Path("/sys/fs/cgroup")
        found = [str(path) for path in leaks.states(self.root)]
        found += [str(path) for id in self.ids for path in [*cgroups.glob(f"*/{id}"), cgroups / id] if path.exists()]
        return found + [line for line in leaks.mounts() if f"{self.directory}/" in line]

"""Debian's podman with all that it keeps in a place of its own, root's or a user's."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.harness import leaks
from tests.harness.command import Result, as_user, run
from tests.harness.names import unique
from tests.harness.terminal import Terminal

#: Before podman of a user: a mount namespace in which the user has a name, and a network namespace without a network.
_AS_A_USER = """
mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && shift && exec "$@"
"""


class Podman:
    """podman with one runtime, with storage, state, configuration and cgroup of its own, in a network namespace.

    Its command line is docker's, and so are the names here: a flow of tests/docker's kind can be played on it. With
    a `user` it is that user's, without privileges and cgroups.
    """

    def __init__(self, runtime: str, program: str, *, user: int = 0) -> None:
        self.program = program
        self.user = user
        # podman wants its paths short.
        self.directory = Path(tempfile.mkdtemp(prefix="p-", dir="/tmp"))
        #: The name of the cgroup of all containers.
        self.cgroup = unique("pod")
        (self.directory / "home").mkdir()
        (self.directory / "xdg").mkdir(0o700)
        # Its own defaults for these limits are above what this machine may have. Messages of a runtime are understood
        # where it is known to write them as JSON.
        (self.directory / "containers.conf").write_text(
            f"""
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
netns = "none"
log_driver = "k8s-file"
[engine]
runtime = "{runtime}"
runtime_supports_json = ["{runtime}"]
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.runtimes]
{runtime} = ["{program}"]
"""
        )
        for name, line in (("passwd", f"boat:x:{user}:{user}::/:/bin/sh\n"), ("group", f"boat:x:{user}:\n")):
            (self.directory / name).write_text(Path(f"/etc/{name}").read_text() + line)
        for path in (self.directory, *self.directory.iterdir()):
            os.chown(path, user, user)

    @property
    def docker_environment(self) -> Mapping[str, str]:
        return {
            "CONTAINERS_CONF": f"{self.directory}/containers.conf",
            "HOME": f"{self.directory}/home",
            "XDG_RUNTIME_DIR": f"{self.directory}/xdg",
            "XDG_CONFIG_HOME": f"{self.directory}/home",
            "XDG_DATA_HOME": f"{self.directory}/home",
        }

    def docker_command(self, *arguments: str | Path) -> list[str]:
        own = self.directory
        flags = {"root": own / "root", "runroot": own / "run", "tmpdir": own / "tmp"}
        flags["storage-driver"] = Path("vfs" if self.user else "overlay")
        words = [str(argument) for argument in arguments]
        if not self.user and "--pod" not in words:
            # A container in a pod has its cgroup in the pod's.
            verb = 2 if words[0] == "pod" else 1
            if words[verb - 1] in ("run", "create"):
                words.insert(verb, f"--cgroup-parent=/{self.cgroup}")
            elif words[0] == "build":
                words.insert(1, f"--cgroup-parent=/{self.cgroup}/build")
        return [*self._before(), "podman", *(f"--{name}={value}" for name, value in flags.items()), *words]

    def _before(self) -> list[str]:
        words = ["unshare", "--net"]
        if self.user:
            words += ["--mount", "--propagation", "slave", "sh", "-c", _AS_A_USER, "sh", str(self.directory)]
        return [*words, *as_user(self.user)]

    def docker(self, *arguments: str | Path, input: bytes = b"", timeout: float = 60.0) -> Result:
        """Run podman."""
        return run(
            self.docker_command(*arguments),
            input=input,
            env=self.docker_environment,
            cwd=self.directory,
            timeout=timeout,
        )

    def docker_terminal(self, *arguments: str | Path) -> Terminal:
        """Run podman in a terminal."""
        return Terminal(self.docker_command(*arguments), env=self.docker_environment)

    def remove_containers(self) -> None:
        """Remove all containers and pods, whatever they do."""
        self.docker("pod", "rm", "--all", "--force", "--time", "0").check()
        self.docker("rm", "--all", "--force", "--time", "0").check()

    def finish_test(self) -> list[str]:
        """Remove all containers; returns what stays behind all the same."""
        self.remove_containers()
        left = leaks.remaining(self._left)
        # podman makes some for itself, and leaves those of pods in hierarchies that it does not know.
        for top in leaks.cgroup_tops(self.cgroup):
            for cgroup in sorted(path for path in (top, *top.rglob("*")) if path.is_dir())[::-1]:
                with contextlib.suppress(OSError):  # not empty: then it has been reported
                    cgroup.rmdir()
        return left

    def _left(self) -> list[str]:
        # The storage is mounted upon itself while it has an owner.
        own = f" {self.directory}/root/overlay {self.directory}/root/overlay "
        left = [f"mount: {line}" for line in leaks.mounts() if f"{self.directory}/" in line and own not in line]
        left += [f"process: {line}" for line in leaks.processes(f"{self.directory}/") if " conmon " in line]
        left += [f"cgroup: {path}" for top in leaks.cgroup_tops(self.cgroup) for path in top.rglob("libpod-*")]
        return left + [f"state: {id}" for id in self.known_to(self.program)]

    def known_to(self, program: str) -> list[str]:
        """Return the containers of this podman that a runtime knows, in the directory that is its own choice."""
        listing = run([*self._before(), program, "list", "--format", "json"], env=self.docker_environment).check()
        return [
            each["id"] for each in json.loads(listing.text) or () if each["bundle"].startswith(f"{self.directory}/")
        ]

    def close(self) -> None:
        """Remove all of it. AssertionError for what was left behind."""
        try:
            self.docker("system", "prune", "--all", "--force", "--volumes")
            if self.user:
                # It keeps the namespaces of the user's containers.
                os.kill(int((self.directory / "tmp/pause.pid").read_text()), signal.SIGKILL)
            leaks.unmount(self.directory)
            left = leaks.remaining(lambda: leaks.of_directory(self.directory))
            assert left == []
        finally:
            shutil.rmtree(self.directory)

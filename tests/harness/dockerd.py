"""Debian's dockerd in a place of its own, on top of a daemon with containerd's API."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from tests.harness import leaks
from tests.harness.command import Result, run
from tests.harness.daemon import Daemon
from tests.harness.names import Names, unique
from tests.harness.terminal import Terminal

#: The client of the same version; another one may come first in PATH.
_DOCKER, _DOCKERD = "/usr/bin/docker", "/usr/sbin/dockerd"

#: What it says, in debug mode, each time that it begins to hear the events of containers.
_LISTENS = "processing event stream"

#: Where dockerd looks for plugins, wherever else it lives.
_PLUGINS = Path("/run/docker/plugins")


class Dockerd(Daemon):
    """dockerd with directories, socket, network namespace, cgroup and containerd namespace of its own.

    It sets up no network: its containers have none. With `live_restore` they outlive it.
    """

    kind = "dockerd"

    def __init__(self, below: Daemon, *, live_restore: bool = True, runtime: str = "runc", program: str = "") -> None:
        """`runtime` is the one of its containers, of which `program` is the path if it does not know it."""
        super().__init__()
        self.below = below
        self._runtime = runtime
        self._program = program
        self.address = f"{self.directory}/docker.sock"
        self.live_restore = live_restore
        #: The namespace in which its containers are the daemon's below, and the name of their cgroup.
        self.moby = unique("moby")
        self._exec_root = self.directory / "exec"
        self._data_root = self.directory / "data"
        self._used = False
        #: How much of its log tells of tests before the present one.
        self._told = 0

    def command(self) -> list[str]:
        # Not the machine's: what a real dockerd on it was told is none of the tests' business.
        config = self.directory / "daemon.json"
        document: dict[str, object] = {"deprecated-key-path": f"{self.directory}/key.json"}
        if self._program:
            document["runtimes"] = {self._runtime: {"path": self._program}}
        config.write_text(json.dumps(document))
        flags = {
            "config-file": config,
            "containerd": self.below.address,
            "containerd-namespace": self.moby,
            "containerd-plugins-namespace": f"{self.moby}.plugins",
            "data-root": self._data_root,
            "exec-root": self._exec_root,
            "pidfile": self.directory / "pid",
            "host": f"unix://{self.address}",
            "group": "root",
            "cgroup-parent": f"/{self.moby}",
            "exec-opt": "native.cgroupdriver=cgroupfs",
            "storage-driver": "overlay2",
            "default-runtime": self._runtime,
            "bridge": "none",
            "iptables": "false",
            "ip6tables": "false",
            "ip-forward": "false",
            "live-restore": str(self.live_restore).lower(),
            "debug": "true",
        }
        command = [_DOCKERD, *(f"--{name}={value}" for name, value in flags.items())]
        return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *command]

    def answers(self) -> bool:
        return self.docker("version").code == 0

    def docker_command(self, *arguments: str | Path) -> list[str]:
        return [_DOCKER, "--host", f"unix://{self.address}", *(str(argument) for argument in arguments)]

    @property
    def docker_environment(self) -> Mapping[str, str]:
        return {"DOCKER_CONFIG": f"{self.directory}/client"}

    def docker(self, *arguments: str | Path, input: bytes = b"", timeout: float = 60.0) -> Result:
        """Run Debian's docker against it."""
        self._used = True
        return run(self.docker_command(*arguments), input=input, env=self.docker_environment, timeout=timeout)

    def docker_terminal(self, *arguments: str | Path) -> Terminal:
        """Run Debian's docker against it in a terminal."""
        self._used = True
        return Terminal(self.docker_command(*arguments), env=self.docker_environment)

    @property
    def runtime_root(self) -> Path:
        """Where its runtimes have the state of containers, whatever their names."""
        return self._exec_root / "runtime-runc" / self.moby

    @property
    def subscriptions(self) -> int:
        """How often it has begun to hear the events of its containers."""
        lines = self.log.read_text(errors="replace").splitlines()
        return sum(_LISTENS in line and line.endswith(f"namespace={self.moby}") for line in lines)

    def remove_containers(self) -> None:
        """Remove all containers, whatever they do."""
        if containers := self.docker("ps", "--all", "--quiet").check().text.split():
            self.docker("rm", "--force", *containers).check()

    def finish_test(self) -> list[str]:
        """Remove all containers; returns what stays behind all the same."""
        if not self._used:
            return []
        for daemon in (self.below, self):
            if not daemon.running:  # a test failed meanwhile
                daemon.start()
        self.remove_containers()
        log = self.log.read_text(errors="replace")
        # Every request of its client is logged, and names the container.
        ids = set(re.findall(r"\b[0-9a-f]{64}\b", log[self._told :]))
        left = leaks.remaining(lambda: self._left(ids))
        self._told = len(log)
        self._used = False
        self._tidy()
        return left

    def _left(self, ids: set[str]) -> list[str]:
        # While it runs it has its data mounted upon itself.
        own = _own(self._data_root)
        left = [f"mount: {line}" for line in leaks.mounts() if f"{self.directory}/" in line and own not in line]
        left += [f"process: {line}" for line in leaks.processes(self.moby) if line.split()[0] != str(self.pid)]
        left += [f"cgroup: {path}" for path in leaks.cgroups(self.moby)]
        left += [f"runc state: {path}" for path in leaks.states(self.runtime_root)]
        left += [f"fifos: {path}" for path in leaks.entries(self._exec_root / "containerd")]
        for top in (self.below.state, self.below.root):
            for runtimes in top.glob("io.containerd.runtime.*"):
                left += [f"bundle: {path}" for path in leaks.entries(runtimes / self.moby)]
        sockets = (leaks.shim_socket(self.below.address, self.moby, id) for id in ids)
        return left + [f"shim socket: {socket}" for socket in sockets if socket.exists()]

    def _tidy(self) -> None:
        names = Names()
        names.namespaces.append(self.moby)
        leaks.tidy(names)

    def stop(self) -> int:
        status = super().stop()
        # One that found its data mounted, since the one before it was killed, leaves it so. While containers live it
        # is in use.
        run(["umount", self._data_root])
        return status

    def close(self) -> None:
        """Stop it and see that it left nothing behind, in the daemon below neither. AssertionError for what it left."""
        try:
            super().close()
        finally:
            for namespace in (self.moby, f"{self.moby}.plugins"):
                removed = self.below.ctr("namespaces", "rm", namespace)
                assert removed.code == 0 or "not found" in removed.error_text, removed.error_text
            for directory in (_PLUGINS, _PLUGINS.parent):
                with contextlib.suppress(OSError):  # a dockerd of somebody else has something there
                    directory.rmdir()


def _own(data_root: Path) -> str:
    """Return what only the line of a directory that is mounted upon itself has in mountinfo."""
    return f" {data_root} {data_root} "

"""A daemon in a place of its own: Debian's containerd or wherryd, started, driven with ctr, killed, started again."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.harness import leaks
from tests.harness.command import Result, environment, run
from tests.harness.names import Names
from tests.harness.terminal import Terminal

#: How long a daemon may take to answer; generous, since the machine may be busy with other tests.
_START_TIMEOUT = 60.0

#: How long it may take to end after SIGTERM.
_STOP_TIMEOUT = 30.0

#: The directory of commands of the virtual environment that runs the tests.
COMMANDS = Path(sys.executable).parent


class Daemon:
    """A daemon with root, state and sockets in one short directory under /tmp (a socket's path holds 107 bytes).

    What it does between start and stop is real; nothing of it is shared but what containerd itself shares between
    daemons: /run/containerd/{s,fifo,runc} and the cgroup hierarchies, where names of our own keep us apart.
    """

    kind = ""

    def __init__(self, *, config: str = "", env: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="w-", dir="/tmp"))
        self.root = self.directory / "root"
        self.state = self.directory / "state"
        self.address = f"{self.directory}/d.sock"
        self.log = self.directory / "log"
        self.names = Names()
        self._config = config
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and return when it answers. AssertionError with its log if it does not."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self._env),
                cwd=self.directory,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self.answers():
            code = self._process.poll()
            assert code is None, f"{self.kind} ended with {code}:\n{self.log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"{self.kind} is silent:\n{self.log.read_text(errors='replace')}"
            time.sleep(0.02)

    def answers(self) -> bool:
        """Say whether the daemon takes calls."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.address)
            except OSError:
                return False
        return self.ctr("version").code == 0

    def stop(self) -> int:
        """End it gracefully; returns its exit status. Killed, with an AssertionError, if it does not end."""
        assert self._process is not None, "not started"
        process, self._process = self._process, None
        process.terminate()
        try:
            return process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{self.kind} does not end:\n{self.log.read_text(errors='replace')}") from None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        assert self._process is not None, "not started"
        process, self._process = self._process, None
        process.send_signal(signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Stop it, see that it left nothing behind, and remove its directory. AssertionError for what it left."""
        try:
            left = self.finish_test()
            if self._process is not None:
                self.stop()
            left += leaks.remaining(lambda: leaks.of_directory(self.directory))
            assert not left, f"{self.kind} left behind:\n" + "\n".join(left)
        finally:
            leaks.unmount(self.directory)
            shutil.rmtree(self.directory)

    def ctr(
        self,
        *arguments: str | Path,
        namespace: str | None = None,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """Run Debian's ctr against it."""
        return run(self.ctr_command(*arguments, namespace=namespace), input=input, env=env, timeout=timeout)

    def ctr_terminal(self, *arguments: str | Path, namespace: str | None = None) -> Terminal:
        """Run Debian's ctr against it in a terminal."""
        return Terminal(self.ctr_command(*arguments, namespace=namespace))

    def ctr_command(self, *arguments: str | Path, namespace: str | None = None) -> list[str]:
        within = ["--namespace", namespace] if namespace is not None else []
        return ["ctr", "--address", self.address, *within, *(str(argument) for argument in arguments)]

    def namespace(self, prefix: str = "t") -> str:
        """Return a namespace's name for one test; all in it is removed, and looked for, when the test ends."""
        return self.names.namespace(prefix)

    def id(self, prefix: str = "c") -> str:
        """Return a container's id for one test."""
        return self.names.id(prefix)

    def finish_test(self) -> list[str]:
        """Empty the namespaces that the test used; returns what stays behind all the same."""
        names, self.names = self.names, Names()
        if self._process is not None:
            for namespace in names.namespaces:
                self.sweep(namespace)
        if not names.namespaces:
            return []
        left = leaks.remaining(lambda: leaks.of_namespaces(self, names))
        leaks.unmount(self.directory)
        leaks.tidy(names)
        return left

    def sweep(self, namespace: str) -> None:
        """Remove everything in a namespace, and the namespace."""
        for _ in range(3):
            removed = self.ctr("namespaces", "rm", namespace)
            if removed.code == 0 or b"not found" in removed.errors:
                return
            for container in self.listed("tasks", namespace):
                self.ctr("tasks", "rm", "--force", container, namespace=namespace)
            for noun in ("containers", "images", "leases"):
                if names := self.listed(noun, namespace):
                    self.ctr(noun, "rm", *names, namespace=namespace)
            for snapshotter in ("overlayfs", "native", "btrfs", "erofs"):
                # Children first: a parent can't go before them.
                while keys := self._snapshots(snapshotter, namespace):
                    gone = [
                        self.ctr("snapshots", "--snapshotter", snapshotter, "rm", key, namespace=namespace).code
                        for key in reversed(keys)
                    ]
                    if all(gone):
                        break
            if digests := self.listed("content", namespace):
                self.ctr("content", "rm", *digests, namespace=namespace)

    def listed(self, noun: str, namespace: str) -> list[str]:
        """Return the ids that `ctr NOUN ls -q` prints."""
        return self.ctr(noun, "ls", "-q", namespace=namespace).text.split()

    def _snapshots(self, snapshotter: str, namespace: str) -> list[str]:
        listing = self.ctr("snapshots", "--snapshotter", snapshotter, "ls", namespace=namespace).text.splitlines()
        # Keys may hold blanks, so the column's width is what the heading says.
        return [row[: listing[0].index("PARENT")].rstrip() for row in listing[1:]]


class Containerd(Daemon):
    """Debian's containerd, without the CRI plugin and what would touch the machine."""

    kind = "containerd"

    def command(self) -> list[str]:
        config = self.directory / "config.toml"
        config.write_text(
            f'''version = 2
root = "{self.root}"
state = "{self.state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.aufs",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{self.address}"
[ttrpc]
  address = "{self.address}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
{self._config}'''
        )
        binary = shutil.which("containerd")
        assert binary is not None, "Debian's containerd is not installed (make test installs it)"
        return [binary, "--config", str(config)]


class Wherryd(Daemon):
    """The installed wherryd."""

    kind = "wherryd"

    def command(self) -> list[str]:
        config = self.directory / "config.toml"
        config.write_text(self._config)
        return [
            *(str(COMMANDS / "wherryd"), "--root", str(self.root), "--state", str(self.state)),
            *("--address", self.address, "--config", str(config), "--log-level", "debug"),
        ]

    def wherry_command(self, *arguments: str | Path, namespace: str | None = None) -> list[str]:
        within = ["--namespace", namespace] if namespace is not None else []
        words = [str(argument) for argument in arguments]
        return [str(COMMANDS / "wherry"), "--address", self.address, *within, *words]

    def wherry(
        self,
        *arguments: str | Path,
        namespace: str | None = None,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Result:
        """Run the installed wherry command against it."""
        return run(self.wherry_command(*arguments, namespace=namespace), input=input, env=env, timeout=timeout)

    def wherry_terminal(self, *arguments: str | Path, namespace: str | None = None) -> Terminal:
        """Run the installed wherry command against it in a terminal."""
        return Terminal(self.wherry_command(*arguments, namespace=namespace))


class ContainerdWithOurShims(Containerd):
    """Debian's containerd; what it finds in PATH as containerd-shim-runc-v2 is ours, and so is runtime v1's shim."""

    def __init__(self) -> None:
        super().__init__(
            config=f"""
[plugins."io.containerd.runtime.v1.linux"]
  shim = "{COMMANDS / "wherry-shim"}"
"""
        )

    def command(self) -> list[str]:
        folder = self.directory / "bin"
        folder.mkdir(exist_ok=True)
        link = folder / "containerd-shim-runc-v2"
        if not link.is_symlink():
            link.symlink_to(COMMANDS / "containerd-shim-wherry-v2")
        return ["env", f"PATH={folder}:/usr/sbin:/usr/bin:/sbin:/bin", *super().command()]


class ContainerdWithOurRuntime(Containerd):
    """Debian's containerd and its shims, which are told to start containers with wherry-runc."""

    def __init__(self) -> None:
        super().__init__(
            config=f"""
[plugins."io.containerd.runtime.v1.linux"]
  runtime = "{COMMANDS / "wherry-runc"}"
"""
        )

    def ctr_command(self, *arguments: str | Path, namespace: str | None = None) -> list[str]:
        if arguments[0] == "run" and "io.containerd.runtime.v1.linux" not in arguments:
            arguments = ("run", "--runc-binary", COMMANDS / "wherry-runc", *arguments[1:])
        return super().ctr_command(*arguments, namespace=namespace)


class WherrydWithDebiansShims(Wherryd):
    """The installed wherryd; both runtimes have the shims of Debian's containerd."""

    def __init__(self) -> None:
        super().__init__(
            config="""
[runtimes."io.containerd.runc.v2"]
shim = "/usr/bin/containerd-shim-runc-v2"
[runtimes."io.containerd.runtime.v1.linux"]
shim = "/usr/bin/containerd-shim"
"""
        )


def alive(pid: int) -> bool:
    """Say whether a process of that id runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

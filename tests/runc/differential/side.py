"""Running one case with one runtime, and what that leaves on the machine."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import leaks
from tests.runc.differential import report
from tests.runc.differential.cases import CGROUP, DIR, ID, NAMESPACES, USER_NAMESPACES, Case, base, changed

_CGROUPS = Path("/sys/fs/cgroup")
_TIMEOUT = 30.0
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Laboratory:
    """Where cases run, one after another at the same paths, so that those are the same for every runtime."""

    directory: Path
    probe: Path
    #: Directories below /proc of joinable namespaces, and the names of those and of this process's, by inode.
    namespaces: str
    user_namespaces: str
    known: Mapping[int, str]

    @property
    def bundle(self) -> Path:
        return self.directory / "bundle"

    @property
    def outputs(self) -> Path:
        return self.directory / "outputs"

    @property
    def name(self) -> str:
        """The id of containers, and the name of the cgroup above theirs: no two laboratories have the same."""
        return self.directory.name

    def fill(self, value: Any) -> Any:
        """Replace the places in all strings of a value."""
        text = json.dumps(value)
        for place, name in (
            (DIR, str(self.bundle)),
            (CGROUP, f"{self.name}-above"),
            (ID, self.name),
            (NAMESPACES, self.namespaces),
            (USER_NAMESPACES, self.user_namespaces),
        ):
            text = text.replace(place, name)
        return json.loads(text)

    def run(self, runtime: str, case: Case) -> dict[str, Any]:
        """Run a case to its end and return what was seen, by field. AssertionError if anything is left of it."""
        root = self.directory / "state"
        self._make_bundle(case)
        try:
            with case.around(self.bundle) if case.around else contextlib.nullcontext():
                seen = Side(self, case, [runtime, "--root", str(root), *self.fill(case.global_flags)]).run()
                seen["hooks"] = report.hooks(self.bundle / "hooks", self.known)
                seen["start hooks"] = report.hooks(self.bundle / "rootfs/hooks", self.known)
                seen["files"] = report.tree(self.bundle)
                for name in ("hooks", "rootfs/hooks"):  # their content is above
                    seen["files"].pop(name, None)
            left = leaks.remaining(lambda: self.left(root))
        finally:
            self._tidy(runtime, root)
        assert not left, f"{runtime} left behind:\n" + "\n".join(left)
        return report.flat(seen)

    def left(self, root: Path) -> list[str]:
        """Return what there is of a container: state, cgroups, mounts, and processes that the runtime started."""
        # wherry-runc keeps compiled seccomp profiles in .seccomp: no container is called so.
        left = [f"state: {path}" for path in leaks.states(root) if path.is_dir()]
        # A runtime removes its container's cgroup, but not those that it made above.
        left += [f"cgroup: {path}" for path in self._cgroups() if path.name in ("c", self.name)]
        left += [f"mount: {line}" for line in leaks.mounts() if f"{self.directory}/" in line]
        mark = f"MARK={self.directory}\0".encode()
        for process in os.listdir("/proc"):
            if process.isdigit():
                try:
                    with open(f"/proc/{process}/environ", "rb") as file:
                        environment = file.read()
                except OSError:
                    continue  # gone meanwhile
                left += [f"process: {process}"] if mark in environment else []
        return left

    def close(self) -> None:
        for path in self._above():
            with contextlib.suppress(OSError):  # none was needed there
                path.rmdir()

    def _cgroups(self) -> list[Path]:
        """Return the cgroups of containers, innermost first, in every hierarchy."""
        own = [*_CGROUPS.glob(f"*/{self.name}"), _CGROUPS / self.name]
        return [path for top in self._above() for path in _below(top)] + [path for path in own if path.exists()]

    def _above(self) -> list[Path]:
        """Return where `CGROUP` may be in each hierarchy: at its top, or below the cgroup of this process."""
        names = {f"{self.name}-above"}
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            names.add(f"{line.partition(':/')[2]}/{self.name}-above".lstrip("/"))
        found = [path for name in names for path in (*_CGROUPS.glob(f"*/{name}"), _CGROUPS / name)]
        return [path for path in found if path.exists()]

    def _make_bundle(self, case: Case) -> None:
        rootfs = self.bundle / "rootfs"
        self.outputs.mkdir()
        for directory in ("bin", "dev", "etc", "home/user", "proc", "sys", "tmp", "var/empty"):
            (rootfs / directory).mkdir(parents=True)
        (rootfs / "tmp").chmod(0o1777)
        (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
        (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
        if case.owner:
            shutil.copy(self.probe, rootfs / "probe")
        else:
            os.link(self.probe, rootfs / "probe")
        os.link(self.probe, self.bundle / "probe")
        if case.config is not None:
            (self.bundle / "config.json").write_bytes(case.config)
        else:
            document = self.fill(changed(base(case.asked), case.changes))
            (self.bundle / "config.json").write_text(json.dumps(document))
        for name, content in case.files.items():
            path = self.bundle / name
            if content is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            elif content.startswith("-> "):
                path.symlink_to(self.fill(content[3:]))
            else:
                path.write_text(self.fill(content))
                path.chmod(0o666 if path.name == "hooks" else 0o644)
        if case.owner:
            subprocess.run(["chown", "-hR", f"{case.owner}:{case.owner}", rootfs], check=True)

    def _tidy(self, runtime: str, root: Path) -> None:
        """End what is left, and make place for the next."""
        if any(path.is_dir() for path in leaks.entries(root)):
            subprocess.run([runtime, "--root", root, "delete", "--force", self.name], check=False, capture_output=True)
        leaks.unmount(self.bundle)
        for path in self._cgroups():
            with contextlib.suppress(OSError):  # what is in it has been reported
                path.rmdir()
        for path in (self.bundle, self.outputs, root):
            shutil.rmtree(path, ignore_errors=True)


class Side:
    """One run of one case."""

    def __init__(self, laboratory: Laboratory, case: Case, command: list[str]) -> None:
        self.laboratory = laboratory
        self.case = case
        self.command = command
        self.id = laboratory.name
        self.flags: list[str] = laboratory.fill(case.flags)
        self.bundle = [] if "--bundle" in case.flags else ["--bundle", str(laboratory.bundle)]

    def run(self) -> dict[str, Any]:
        """Play the case and return the exit codes, errors, and the probe's report."""
        play = {
            "run": self._run,
            "foreground": self._foreground,
            "console": self._console,
            "create": self._create,
            "exec": self._exec,
            "exec-console": self._exec_console,
        }
        return play[self.case.how]()

    def _environment(self) -> dict[str, str]:
        mark = {"MARK": str(self.laboratory.directory)}
        return {"PATH": _PATH, "HOME": "/root", **mark, **self.case.environment}

    def _call(self, *words: str, output: int | None = None, terminal: int | None = None) -> dict[str, Any]:
        """Run the runtime to its end; the container's output goes to a file where it outlives the call."""
        errors = self.laboratory.outputs / "errors"
        arguments = [*self.command, *words]
        if "LISTEN_FDS" in self.case.environment or "--preserve-fds" in words:
            open_files = "".join(f" {fd}</dev/zero" for fd in (3, 4))
            arguments = ["sh", "-c", f'exec "$@" {open_files}', "sh", *arguments]
        with open(errors, "wb") as stream:
            stdin = subprocess.DEVNULL if terminal is None else terminal
            process = subprocess.Popen(
                arguments,
                stdin=stdin,
                stdout=terminal if terminal is not None else subprocess.PIPE if output is None else output,
                stderr=terminal if terminal is not None else stream if output is None else output,
                env=self._environment(),
                umask=0o022,
                start_new_session=terminal is not None,
            )
        if terminal is not None:
            return {"process": process}
        try:
            out, _ = process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        text = errors.read_text(errors="replace")
        return {"code": process.returncode, "output": (out or b"").decode(errors="replace"), "errors": text}

    def _probed(self, output: str) -> dict[str, Any]:
        return report.container(output, self.laboratory.known)

    def _ended(self, call: dict[str, Any]) -> dict[str, Any]:
        return {"code": call["code"], "errors": report.errors(call["errors"])}

    def _run(self) -> dict[str, Any]:
        call = self._call("run", *self.flags, *self.bundle, self.id)
        return {**self._ended(call), **self._probed(call["output"])}

    def _foreground(self) -> dict[str, Any]:
        master, slave = os.openpty()
        # A runtime passes this size on at a moment of its own: no case may ask for another.
        termios.tcsetwinsize(master, (33, 121))
        process: subprocess.Popen[bytes] = self._call("run", *self.flags, *self.bundle, self.id, terminal=slave)[
            "process"
        ]
        os.close(slave)
        try:
            output = _read_terminal(master)
            code = process.wait(_TIMEOUT)
        finally:
            os.close(master)
            process.kill()
            process.wait()
        return {"code": code, **self._probed(output)}

    def _detached(self, *words: str) -> tuple[dict[str, Any], str]:
        """Call the runtime with stdio on a file; returns the call and what the file holds afterwards."""
        path = self.laboratory.outputs / words[0]
        with open(path, "wb") as file:
            call = self._call(*words, output=file.fileno())
        return call, path.read_text(errors="replace")

    def _pid_file(self) -> tuple[str, Path]:
        path = self.laboratory.outputs / "pid"
        return f"--pid-file={path}", path

    def _console(self) -> dict[str, Any]:
        flag, pid_file = self._pid_file()
        with _console_socket(self.laboratory.outputs / "console") as (socket_flag, receive):
            created, errors = self._detached("create", flag, socket_flag, *self.flags, *self.bundle, self.id)
            if created["code"]:
                return {"code": created["code"], "errors": report.errors(errors)}
            master = receive()
            with _ending(pid_file):
                started = self._call("start", self.id)
                output = _read_terminal(master)
            os.close(master)
        deleted = self._call("delete", self.id)
        calls = {"start": self._ended(started), "delete": self._ended(deleted)}
        return {"calls": calls, **self._probed(output)}

    def _create(self) -> dict[str, Any]:
        flag, pid_file = self._pid_file()
        created, output = self._detached("create", flag, *self.flags, *self.bundle, self.id)
        if created["code"]:
            return {"code": created["code"], "errors": report.errors(output)}
        calls = {"created": self._state()}
        with _ending(pid_file):
            calls["start"] = self._ended(self._call("start", self.id))
            if calls["start"]["code"]:
                calls["delete"] = self._ended(self._call("delete", "--force", self.id))
                return {"calls": calls, "code": calls["start"]["code"]}
        calls["stopped"] = self._state()
        calls["delete"] = self._ended(self._call("delete", self.id))
        calls["deleted"] = self._state()
        return {"calls": calls, **self._probed((self.laboratory.outputs / "create").read_text())}

    def _state(self) -> dict[str, Any]:
        call = self._call("state", self.id)
        return {**self._ended(call), "state": report.state(call["output"])}

    def _process_file(self) -> str:
        """Write the process of an `exec`, which is the container's but for the case's changes."""
        document = base()["process"]
        document["args"] = ["/probe", *self.case.asked]
        path = self.laboratory.outputs / "process.json"
        path.write_text(json.dumps(self.laboratory.fill(changed(document, self.case.process))))
        return str(path)

    def _exec(self) -> dict[str, Any]:
        with self._holding() as calls:
            call = self._call("exec", *self.flags, "--process", self._process_file(), self.id)
            seen = {**self._ended(call), **self._probed(call["output"])}
        return {"calls": calls, **seen}

    def _exec_console(self) -> dict[str, Any]:
        with self._holding() as calls, _console_socket(self.laboratory.outputs / "console") as (flag, receive):
            words = ("exec", "--detach", flag, *self.flags, "--process", self._process_file(), self.id)
            call, errors = self._detached(*words)
            seen: dict[str, Any] = {"code": call["code"], "errors": report.errors(errors)}
            if call["code"] == 0:
                master = receive()
                seen |= self._probed(_read_terminal(master))
                os.close(master)
        return {"calls": calls, **seen}

    @contextlib.contextmanager
    def _holding(self) -> Iterator[dict[str, Any]]:
        """Have the container wait, then end it with SIGTERM."""
        flag, pid_file = self._pid_file()
        calls: dict[str, Any] = {}
        document = json.loads((self.laboratory.bundle / "config.json").read_text())
        document["process"]["args"] = ["/probe", "hold"]
        (self.laboratory.bundle / "config.json").write_text(json.dumps(document))
        created, errors = self._detached("create", flag, *self.bundle, self.id)
        assert created["code"] == 0, errors
        with _ending(pid_file):
            calls["start"] = self._ended(self._call("start", self.id))
            output = self.laboratory.outputs / "create"
            _wait_for(lambda: output.read_bytes().endswith(b"\n"))  # its report: now it listens to signals
            yield calls
            calls["kill"] = self._ended(self._call("kill", self.id, "TERM"))
        calls["delete"] = self._ended(self._call("delete", self.id))


def _below(top: Path) -> list[Path]:
    return [Path(directory) for directory, _, _ in os.walk(top, topdown=False) if directory != str(top)]


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.002)


@contextlib.contextmanager
def _ending(pid_file: Path) -> Iterator[None]:
    """Wait, after the body, until the container's process has ended."""
    pidfd = os.pidfd_open(int(pid_file.read_text()))
    try:
        yield
        assert select.select([pidfd], [], [], _TIMEOUT)[0], "the container did not end"
    finally:
        os.close(pidfd)


@contextlib.contextmanager
def _console_socket(path: Path) -> Iterator[tuple[str, Any]]:
    """Listen for a terminal; gives the flag that names the socket, and a function that receives the descriptor."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(_TIMEOUT)
        listener.bind(str(path))
        listener.listen()

        def receive() -> int:
            with listener.accept()[0] as connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
            return descriptors[0]

        yield f"--console-socket={path}", receive


def _read_terminal(master: int) -> str:
    """Read until nobody has the other end any more."""
    read = bytearray()
    while select.select([master], [], [], _TIMEOUT)[0]:
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: the last one closed it
            return read.decode(errors="replace")
        if not data:
            return read.decode(errors="replace")
        read += data
    raise AssertionError("the terminal's output does not end: " + read.decode(errors="replace"))

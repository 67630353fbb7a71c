"""What a service manager is to a container: told when it is ready (sd_notify(3)), and where its process is (pidfds)."""

from __future__ import annotations

import array
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.command import environment
from tests.runc.command.runtime import Runtime

_HERE = Path(__file__).parent


@pytest.fixture(params=["ours", "runc"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """Each of both: what is expected of ours is what runc does, which knows no long paths of sockets."""
    made: Runtime = request.getfixturevalue(request.param)
    long = made.directory
    with tempfile.TemporaryDirectory(prefix="wherry-") as directory:
        made.directory = Path(directory)
        yield made
        for id in made.ids:
            made("delete", "--force", id)
        made.directory = long


@pytest.fixture(scope="module")
def notify(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("notify") / "notify"
    subprocess.run(["cc", "-static", "-Wall", "-o", program, _HERE / "notify.c"], check=True)
    return program


class Manager:
    """A service manager as far as it listens, and knows BARRIER=1."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            data, ancillary, _flags, _address = self._socket.recvmsg(4096, socket.CMSG_SPACE(16))
            if data == b"end":
                return
            for _level, _type, content in ancillary:
                for fd in array.array("i", content):
                    os.close(fd)
            self.said.append(data.decode())

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", str(self.path))
        self._thread.join()
        self._socket.close()

    def heard(self) -> list[str]:
        """Return what was said but for the barrier, which runc 1.1 does not know."""
        return [text for text in self.said if text != "BARRIER=1"]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path / "manager")
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    yield made
    made.close()


def _configure(runtime: Runtime, notify: Path, *words: str) -> str:
    id = runtime.configure("/notify", *words)
    shutil.copy(notify, runtime.bundle / "rootfs/notify")
    (runtime.bundle / "rootfs/run").mkdir(exist_ok=True)
    return id


def _pid(runtime: Runtime, id: str) -> int:
    return int(json.loads(runtime("state", id).check().text)["pid"])


_LATE = ("STATUS=early", "+0.4", "READY=1\nSTATUS=x", "MAINPID=1", "+100")


@pytest.mark.parametrize("words", [("READY=1", "+100"), _LATE])
def test_ready_when_the_container_is(runtime: Runtime, notify: Path, manager: Manager, words: tuple[str, ...]) -> None:
    """The runtime returns then, and nothing else in the container speaks for the service."""
    id = _configure(runtime, notify, *words)
    said = runtime.detached("run", "--detach", "--bundle", runtime.bundle, id).check()
    assert manager.heard() == ["READY=1\n", f"MAINPID={_pid(runtime, id)}\n"]
    assert "socket /run/notify/notify.sock" in said.error_text
    seen = runtime("exec", id, "/notify").check()
    assert seen.text == "socket none\n", "it is for the first process"
    runtime("delete", "--force", id).check()


def test_ready_when_a_created_one_is(runtime: Runtime, notify: Path, manager: Manager) -> None:
    id = _configure(runtime, notify, "+0.3", "READY=1", "+100")
    runtime.detached("create", "--bundle", runtime.bundle, id).check()
    assert manager.said == []
    runtime("start", id).check()
    assert manager.heard() == ["READY=1\n", f"MAINPID={_pid(runtime, id)}\n"]
    runtime("delete", "--force", id).check()


def test_one_that_ends_and_is_never_ready(runtime: Runtime, notify: Path, manager: Manager) -> None:
    id = _configure(runtime, notify, "STATUS=x", "+0.2")
    runtime.detached("create", "--bundle", runtime.bundle, id).check()
    runtime("start", id).check()
    assert manager.said == []
    runtime("delete", id).check()


def test_in_the_foreground_the_runtime_is_the_main_process(runtime: Runtime, notify: Path, manager: Manager) -> None:
    id = _configure(runtime, notify, "READY=1", "+0.3")
    command = [*runtime.command, "run", "--bundle", str(runtime.bundle), id]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment()) as process:
        assert process.wait(20) == 0
    assert manager.heard() == ["READY=1\n", f"MAINPID={process.pid}\n"]


def test_nobody_waits_for_a_readiness_that_does_not_come(ours: Runtime, notify: Path, manager: Manager) -> None:
    """runc 1.1 does: in the foreground for ever, with --detach as long as it has not collected its child."""
    id = _configure(ours, notify, "STATUS=x", "+0.2")
    assert ours("run", "--bundle", ours.bundle, id).code == 0
    id = _configure(ours, notify, "STATUS=x", "+0.2")
    ours.detached("run", "--detach", "--bundle", ours.bundle, id).check()
    assert manager.said == []


def test_ready_among_other_lines(ours: Runtime, notify: Path, manager: Manager) -> None:
    """As sd_notify(3) says; runc 1.1 looks at the first line only."""
    id = _configure(ours, notify, "STATUS=x\nREADY=1", "+100")
    ours.detached("run", "--detach", "--bundle", ours.bundle, id).check()
    assert manager.said == ["READY=1\n", f"MAINPID={_pid(ours, id)}\n", "BARRIER=1"]


def test_a_manager_that_is_not_there(ours: Runtime, notify: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(ours.directory / "nobody"))
    id = _configure(ours, notify, "READY=1")
    result = ours.detached("run", "--detach", "--bundle", ours.bundle, id)
    assert result.code == 1 and "NOTIFY_SOCKET: no such file or directory" in result.error_text
    assert ours("list", "-q").text == ""


def test_sockets_to_listen_on_are_for_the_first_process(runtime: Runtime) -> None:
    id = runtime.configure("sleep", "100")
    words = " ".join([*runtime.command, "run", "--detach", "--bundle", str(runtime.bundle), id])
    script = f"exec 3</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {words}"
    subprocess.run(["sh", "-c", script], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=20)
    assert "LISTEN" not in runtime("exec", id, "env").check().text
    runtime("delete", "--force", id).check()


def _take_pidfd(listener: socket.socket) -> tuple[bytes, int]:
    connection, _ = listener.accept()
    with connection:
        data, ancillary, _flags, _address = connection.recvmsg(64, socket.CMSG_SPACE(4))
    ((_level, _type, content),) = ancillary
    return data, array.array("i", content)[0]


def _process_of(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def test_pidfds(ours: Runtime) -> None:
    """As runc 1.2: the message is its word for the kind of process."""
    path = ours.directory / "pidfd"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(20)
        listener.bind(str(path))
        listener.listen()
        id = ours.configure("sleep", "100")
        ours.detached("create", "--pidfd-socket", path, "--bundle", ours.bundle, id).check()
        kind, pidfd = _take_pidfd(listener)
        assert (kind, _process_of(pidfd)) == (b"standard", _pid(ours, id))
        ours("start", id).check()
        file = ours.directory / "pid"
        ours.detached("exec", "--pidfd-socket", path, "--detach", "--pid-file", file, id, "sleep", "100").check()
        kind, other = _take_pidfd(listener)
        assert (kind, _process_of(other)) == (b"setns", int(file.read_text()))
        ours("delete", "--force", id).check()
        assert select.select([pidfd, other], [], [], 10)[0]
        for fd in (pidfd, other):
            os.close(fd)
    path.unlink()
    id = ours.configure("sleep", "100")
    result = ours.detached("create", "--pidfd-socket", path, "--bundle", ours.bundle, id)
    assert result.code == 1 and "pidfd socket" in result.error_text
    assert ours("list", "-q").text == ""

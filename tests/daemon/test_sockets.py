"""Sockets and locks of a daemon, on the real file system."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wherry.daemon import sockets
from wherry.daemon.notify import notify
from wherry.errors import FailedPrecondition


def test_a_dead_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/s.sock"
    sockets.make_way(str(path))
    assert path.parent.is_dir()
    sockets.listen(str(path)).close()
    assert path.is_socket()
    sockets.make_way(str(path))
    assert not path.exists()


def test_a_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    with sockets.listen(str(tmp_path / "s.sock")):
        assert (tmp_path / "s.sock").stat().st_mode & 0o777 == 0o660


def test_a_socket_that_answers_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with sockets.listen(path), pytest.raises(FailedPrecondition) as caught:
        sockets.make_way(path)
    assert f"socket {path} answers" in caught.value.message and "--address" in caught.value.message
    assert os.path.exists(path)


def test_a_socket_that_does_not_accept_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_PROBE_TIMEOUT", 0.1)
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(path)
        listening.listen(0)
        first.connect(path)
        with pytest.raises(FailedPrecondition, match="answers"):
            sockets.make_way(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    path.write_text("precious")
    with pytest.raises(FailedPrecondition, match="is no socket"):
        sockets.make_way(str(path))
    assert path.read_text() == "precious"


def test_a_directory_is_one_daemons(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    code = (
        "import sys; from wherry.daemon import sockets; sockets.lock(sys.argv[1], 'root');"
        "print('locked', flush=True); sys.stdin.read()"
    )
    program = [sys.executable, "-c", code, root]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(FailedPrecondition) as caught:
            sockets.lock(root, "root")
        assert f"in use by the wherryd with pid {other.pid}" in caught.value.message
        other.kill()
    # Killed, it has left its file and no lock.
    fd = sockets.lock(root, "root")
    assert Path(root, "wherryd.pid").read_text() == f"{os.getpid()}\n"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_the_service_manager_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0wherry-test-" + str(os.getpid()))
        monkeypatch.setenv("NOTIFY_SOCKET", f"@wherry-test-{os.getpid()}")
        notify("STOPPING=1")
        assert manager.recv(100) == b"STOPPING=1"
    notify("nobody listens, and nothing is raised")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("nobody asked")

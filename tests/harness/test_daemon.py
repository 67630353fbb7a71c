"""The harness itself: what it promises the other tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import archives, leaks
from tests.harness.daemon import Containerd, alive
from tests.harness.terminal import Terminal


def test_busybox_image_runs(containerd: Containerd, busybox_archive: Path) -> None:
    namespace, container = containerd.namespace(), containerd.id()
    containerd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    ran = containerd.ctr("run", "--rm", archives.BUSYBOX, container, "cat", "/etc/motd", namespace=namespace)
    assert (ran.code, ran.text) == (0, "second layer\n"), ran.error_text


def test_docker_archive_is_the_same_image(
    containerd: Containerd, busybox_docker_archive: Path, busybox_archive: Path
) -> None:
    for archive in (busybox_docker_archive, busybox_archive):
        namespace = containerd.namespace()
        containerd.ctr("images", "import", archive, namespace=namespace).check()
        assert containerd.listed("images", namespace) == [archives.BUSYBOX]


def test_sweep_leaves_nothing(containerd: Containerd, busybox_archive: Path) -> None:
    namespace, container = containerd.namespace(), containerd.id()
    containerd.ctr("images", "import", busybox_archive, namespace=namespace).check()
    containerd.ctr(
        *("run", "--detach", "--null-io", archives.BUSYBOX, container, "sleep", "1000"), namespace=namespace
    ).check()
    assert leaks.of_namespaces(containerd, containerd.names)
    assert containerd.finish_test() == []
    assert namespace not in containerd.listed("namespaces", "default")


def test_a_leftover_process_is_found(containerd: Containerd) -> None:
    namespace = containerd.namespace()
    with subprocess.Popen(["sh", "-c", f"read line; : {namespace}"], stdin=subprocess.PIPE) as process:
        try:
            assert any(str(process.pid) in line for line in leaks.of_namespaces(containerd, containerd.names))
        finally:
            process.kill()


def test_a_killed_daemon_starts_again(start_daemon: Callable[[Containerd], Containerd]) -> None:
    daemon = start_daemon(Containerd())
    first = daemon.pid
    daemon.kill()
    assert not alive(first) and not daemon.answers()
    daemon.start()
    assert daemon.pid != first and daemon.answers()


def test_terminal_is_a_terminal() -> None:
    with Terminal(["sh", "-c", 'tty && stty size && read line && echo "<$line>"'], rows=33, columns=99) as terminal:
        terminal.read_until("33 99")
        terminal.enter("hello\n")
        terminal.read_until("<hello>")
        assert terminal.wait() == 0


def test_terminal_says_what_it_saw_instead() -> None:
    with Terminal(["echo", "something else"]) as terminal, pytest.raises(AssertionError, match="something else"):
        terminal.read_until("this", timeout=5)

"""What containers, disks, sockets and clients can do to a daemon and its shims, one at a time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.harness import leaks
from tests.harness.archives import BUSYBOX
from tests.harness.command import environment
from tests.harness.daemon import Wherryd
from tests.harness.events import listening
from tests.runtime.test_survival import tasks, until
from wherry.api import typeurl
from wherry.api.events.events_pb2 import NamespaceCreate, TaskExit
from wherry.api.services.events.v1 import events_pb2
from wherry.client.client import Client
from wherry.client.events import subscribe
from wherry.rpc.blocking_channel import BlockingTtrpcChannel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> Wherryd:
    return start_daemon(Wherryd())


@pytest.fixture
def namespace(daemon: Wherryd, busybox_archive: Path) -> str:
    name = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=name).check()
    return name


def run(daemon: Wherryd, namespace: str, *command: str, flags: tuple[str, ...] = ("--null-io",)) -> str:
    """Start a container and return its id."""
    id = daemon.id()
    daemon.ctr("run", "--detach", *flags, BUSYBOX, id, *command, namespace=namespace).check()
    return id


def end(daemon: Wherryd, namespace: str, id: str, status: int = 137) -> None:
    """Kill a container, see what its exit status is, and remove it."""
    daemon.ctr("tasks", "kill", "--signal", "SIGKILL", id, namespace=namespace)
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    removed = daemon.ctr("tasks", "rm", id, namespace=namespace)
    assert f"exit with non-zero exit code {status}" in removed.error_text
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def resident(pid: int) -> int:
    """Return a process's resident set in KiB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def test_zombies_by_the_thousand(daemon: Wherryd, namespace: str) -> None:
    """Init does not wait for its children; an exec leaves more of them."""
    script = "for i in $(seq 1000); do true & done; exec sleep 1000"
    id = run(daemon, namespace, "sh", "-c", script)
    init, _status = tasks(daemon, namespace)[id]
    children = Path(f"/proc/{init}/task/{init}/children")
    until(lambda: len(children.read_text().split()) == 1000, "a crowd")
    for number in range(3):
        spread = "for i in $(seq 100); do (sh -c 'sleep 0.1' &); done"
        daemon.ctr("tasks", "exec", "--exec-id", f"e{number}", id, "sh", "-c", spread, namespace=namespace).check()
    (shim,) = (int(line.split()[0]) for line in leaks.processes(namespace) if " -id " in line)
    end(daemon, namespace, id)
    until(lambda: not Path(f"/proc/{shim}/exe").exists(), "ended")


def test_a_fork_bomb(daemon: Wherryd, namespace: str) -> None:
    id = daemon.id()
    daemon.wherry(
        *("run", "-d", "--name", id, "--pids-limit", "64", "busybox"),
        *("sh", "-c", "b() { b | b & b; }; while :; do b; done"),
        namespace=namespace,
    ).check()
    for number in range(5):
        other = daemon.ctr("run", "--rm", BUSYBOX, f"{id}-{number}", "sh", "-c", f"exit {number}", namespace=namespace)
        assert (other.code, other.error_text) == (number, "")
    daemon.ctr("tasks", "kill", "--all", "--signal", "SIGKILL", id, namespace=namespace)
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    daemon.ctr("tasks", "rm", id, namespace=namespace)
    daemon.ctr("containers", "rm", id, namespace=namespace).check()


def test_output_that_nobody_reads(daemon: Wherryd, namespace: str) -> None:
    id = daemon.id()
    command = daemon.ctr_command("run", "--rm", BUSYBOX, id, "sh", "-c", "yes", namespace=namespace)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as client:
        until(lambda: id in tasks(daemon, namespace), "started")
        client.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        (shim,) = (int(line.split()[0]) for line in leaks.processes(namespace) if " -id " in line)
        before, ticks = resident(shim), cpu(shim)
        time.sleep(1)
        assert resident(shim) < before + 2000
        assert cpu(shim) - ticks < 50, "a shim that waits does not spin"
        client.kill()
    end(daemon, namespace, id)


def cpu(pid: int) -> int:
    """Return the clock ticks that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_full_disk_under_the_bundles(small_disk: Path, start_daemon: StartDaemon, busybox_archive: Path) -> None:
    daemon = Wherryd()
    daemon.state = small_disk / "state"
    start_daemon(daemon)
    namespace = daemon.namespace()
    daemon.ctr("images", "import", busybox_archive, namespace=namespace).check()
    id = run(daemon, namespace, "sleep", "1000")
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(4096))
    for _ in range(3):
        failed = daemon.ctr("run", "--rm", BUSYBOX, daemon.id(), "true", namespace=namespace)
        assert failed.code == 1 and "no space left on device" in failed.error_text.lower()
    daemon.ctr("tasks", "exec", "--exec-id", "e", id, "true", namespace=namespace)  # which may need room, or not
    end(daemon, namespace, id)
    (small_disk / "filler").unlink()
    ran = daemon.ctr("run", "--rm", BUSYBOX, daemon.id(), "sh", "-c", "exit 5", namespace=namespace)
    assert (ran.code, ran.error_text) == (5, "")


def test_the_daemons_sockets_are_gone(daemon: Wherryd, namespace: str) -> None:
    """Somebody cleaned /run: containers go on, and what happens to them is told once there are sockets again."""
    id = run(daemon, namespace, "sh", "-c", "sleep 1; exit 9")
    for address in (daemon.address, f"{daemon.address}.ttrpc"):
        os.unlink(address)
    time.sleep(1.5)
    daemon.stop()
    daemon.start()
    until(lambda: tasks(daemon, namespace)[id][1] == "STOPPED", "stopped")
    end(daemon, namespace, id, 9)


def test_events_wait_for_the_daemon(daemon: Wherryd, namespace: str) -> None:
    ids = [run(daemon, namespace, "sh", "-c", f"sleep 0.5; exit {number}") for number in (3, 4, 5)]
    shims = [int(line.split()[0]) for line in leaks.processes(namespace) if " -id " in line]
    assert len(shims) == len(ids)
    daemon.kill()
    time.sleep(3)  # containers end, and their shims try ever more seldom
    for pid in shims:
        os.kill(pid, signal.SIGSTOP)  # until somebody listens
    starting = threading.Thread(target=daemon.start)
    starting.start()
    address = f"{daemon.address}.ttrpc"
    until(lambda: _accepts(address), "listening")
    told: dict[str, int] = {}
    client, other = (Client(BlockingTtrpcChannel.connect(address), namespace) for _ in range(2))
    envelopes = subscribe(client, [f"namespace=={namespace}"])
    heard = threading.Event()

    def call() -> None:
        while not heard.wait(0.3):
            _publish(other, "is anybody there")

    calling = threading.Thread(target=call)
    calling.start()
    while len(told) < len(ids):
        envelope = client.channel.run(anext(envelopes))  # type: ignore[attr-defined]
        if envelope.topic == "/test/event" and not heard.is_set():
            heard.set()
            for pid in shims:
                os.kill(pid, signal.SIGCONT)
        elif envelope.topic == "/tasks/exit":
            event = TaskExit.FromString(envelope.event.value)
            assert event.container_id not in told, "told twice"
            told[event.container_id] = event.exit_status
    calling.join()
    starting.join()
    for each in (client, other):
        each.channel.run(each.channel.close())  # type: ignore[attr-defined]
    assert told == dict(zip(ids, (3, 4, 5), strict=True))
    for id, status in zip(ids, (3, 4, 5), strict=True):
        end(daemon, namespace, id, status)


def _accepts(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def test_a_stopped_subscriber(daemon: Wherryd, namespace: str) -> None:
    """It costs the daemon no more than its queue, the other subscribers nothing, and it is told what it missed."""
    with listening(daemon, namespace) as stopped, listening(daemon, namespace) as other:
        assert stopped.stdout is not None
        stopped.send_signal(signal.SIGSTOP)
        before = resident(daemon.pid)
        reading = threading.Thread(target=_read_to, args=(other, "the last"))
        reading.start()
        client = Client(BlockingTtrpcChannel.connect(f"{daemon.address}.ttrpc"), namespace)
        for number in range(15_000):
            _publish(client, f"n{number}")
        _publish(client, "the last")
        reading.join(60)
        assert not reading.is_alive(), "the other one did not get them"
        assert resident(daemon.pid) < before + 60_000
        stopped.send_signal(signal.SIGCONT)
        seen = 0
        for seen, line in enumerate(stopped.stdout, start=1):  # noqa: B007
            assert "the last" not in line, "it got all of them: there is no bound"
        assert seen > 1000
        assert stopped.wait(30) == 1
        client.channel.run(client.channel.close())  # type: ignore[attr-defined]


def _publish(client: Client, name: str) -> None:
    event = typeurl.pack(NamespaceCreate(name=name, labels={"padding": "x" * 100}))
    request = events_pb2.PublishRequest(topic="/test/event", event=event)
    client.channel.run(client.events.publish(request, metadata=client.metadata))  # type: ignore[attr-defined]


def _read_to(listening: subprocess.Popen[str], word: str) -> None:
    assert listening.stdout is not None
    for line in listening.stdout:
        if word in line:
            return

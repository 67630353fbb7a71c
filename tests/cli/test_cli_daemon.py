"""wherry namespace, content, snapshot, events, version and plugin."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path

from tests.cli.commands import Wherry
from tests.harness import archives
from tests.harness.archives import BUSYBOX
from tests.harness.command import environment, run
from tests.harness.daemon import COMMANDS

HELLO = archives.digest(b"hello\n")


def test_namespace(wherry: Wherry) -> None:
    name = wherry.namespace
    assert wherry("namespace", "create", name, "a=b", "c.d/e=f") == ""
    assert wherry.fails("namespace", "create", name) == f'namespace "{name}": already exists'
    assert [row.split() for row in wherry("namespace", "ls").splitlines() if row.startswith(name)] == [
        [name, "a=b,c.d/e=f"]
    ]
    wherry("namespace", "label", name, "a=", "g=h")
    (found,) = [each for each in wherry.json("namespace", "ls", "--json") if each["name"] == name]
    assert found["labels"] == {"c.d/e": "f", "g": "h"}
    assert name in wherry("namespace", "ls", "-q").split()
    wherry("content", "ingest", "-l", "containerd.io/gc.root=1", "x", input=b"hello\n")
    assert "must be empty" in wherry.fails("namespace", "rm", name)
    wherry("content", "rm", HELLO)
    assert wherry("namespace", "rm", name) == f"{name}\n"
    assert wherry.fails("namespace", "rm", name) == f'namespace "{name}": not found'
    assert "must match" in wherry.fails("namespace", "create", "a--b")
    assert wherry.fails("namespace", "label", name, "x").startswith('label "x": KEY=VALUE is expected')


def test_content(wherry: Wherry, tmp_path: Path) -> None:
    file = tmp_path / "hello"
    file.write_bytes(b"hello\n")
    flags = ("--expected-digest", HELLO, "--expected-size", "6", "-l", "containerd.io/gc.root=x", "-l", "a=b")
    assert wherry("content", "ingest", *flags, "ref", file) == f"{HELLO}\n"
    assert wherry("content", "get", HELLO) == "hello\n"
    assert wherry("content", "ls", "-q") == f"{HELLO}\n"
    row = wherry("content", "ls").splitlines()[1]
    assert row.split()[:3] == [HELLO, "6", "B"]
    assert row.endswith("a=b,containerd.io/gc.root=x")
    (info,) = wherry.json("content", "ls", "--json")
    assert (info["digest"], info["size"], info["labels"]["a"]) == (HELLO, 6, "b")
    assert wherry("content", "ls", "-q", "labels.a==c") == ""
    assert "failed size validation" in wherry.fails("content", "ingest", "--expected-size", "7", "r", "-", input=b"x")
    assert "unexpected commit digest" in wherry.fails(
        "content", "ingest", "--expected-digest", HELLO[:-1] + "f", "r", input=b"xx"
    )
    assert wherry("content", "ls", "--active", "-q") == ""
    assert wherry("content", "rm", HELLO) == f"{HELLO}\n"
    for command in ("get", "rm"):
        assert wherry.fails("content", command, HELLO) == f"content digest {HELLO}: not found"
    assert wherry.fails("content", "ingest", "r", tmp_path / "absent").endswith("absent: no such file or directory")


def test_a_write_under_way_is_listed(wherry: Wherry, tmp_path: Path) -> None:
    import os

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    flags = ("--expected-size", "4000001")
    process = subprocess.Popen(wherry.command("content", "ingest", *flags, "the ref", fifo), env=environment())
    with open(fifo, "wb", buffering=0) as source:
        source.write(bytes(4_000_000))
        while len(lines := wherry("content", "ls", "--active").splitlines()) < 2:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert lines[1].startswith("the ref  ")
    assert "3.8 MiB" in lines[1]
    assert wherry("content", "ls", "-q", "--active") == ""


def test_snapshot(busybox: Wherry) -> None:
    lower, upper = sorted(busybox("snapshot", "ls", "-q").split(), key=len)
    rows = {row.split()[0]: row.split()[1:3] for row in busybox("snapshot", "ls").splitlines()[1:]}
    (lower,) = (key for key, (parent, _kind) in rows.items() if parent == "-")
    (upper,) = (key for key, (parent, _kind) in rows.items() if parent == lower)
    assert {kind for _parent, kind in rows.values()} == {"committed"}
    ctr = ("snapshots", "prepare", "a key", upper)
    busybox.daemon.ctr(*ctr, namespace=busybox.namespace).check()
    assert busybox("snapshot", "tree") == f"{lower}\n└─ {upper}\n   └─ a key  (active)\n"
    busybox.daemon.ctr("snapshots", "view", "view", upper, namespace=busybox.namespace).check()
    # As `ctr snapshots prepare` does: else the next collection takes it.
    root = ("snapshots", "label", "view", "containerd.io/gc.root=1")
    busybox.daemon.ctr(*root, namespace=busybox.namespace).check()
    assert busybox("snapshot", "tree") == f"{lower}\n└─ {upper}\n   ├─ a key  (active)\n   └─ view  (view)\n"
    usages = {each["key"]: each for each in busybox.json("snapshot", "usage", "--json")}
    assert usages[lower]["size"] > usages[upper]["size"] > 0
    assert usages[upper]["inodes"] > 0
    assert busybox("snapshot", "usage", lower).splitlines()[1].split()[0] == lower
    (info,) = busybox.json("snapshot", "ls", "--json", "kind==view")
    assert (info["name"], info["kind"], info["parent"]) == ("view", "view", upper)
    assert "cannot remove snapshot with child" in busybox.fails("snapshot", "rm", upper)
    assert busybox("snapshot", "rm", "a key", "view") == "a key\nview\n"
    assert "not found" in busybox.fails("snapshot", "rm", "a key")
    assert "absent" in busybox.fails("snapshot", "ls", "--snapshotter", "absent")


class Events:
    """`wherry events`, running in the background."""

    def __init__(self, wherry: Wherry, *arguments: str) -> None:
        self.lines: list[str] = []
        command = wherry.command("events", *arguments)
        self.process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        # It does not say when it has begun to listen: make something happen until it is heard.
        while not self.lines and self.process.poll() is None:
            run([COMMANDS / "wherry", *command[1:5], "namespace", "label", wherry.namespace, "tick=1"])
            time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def stop(self) -> list[str]:
        """Interrupt it and return the lines it printed, but for the label's."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(30) == 130
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return [line for line in self.lines if "/namespaces/update" not in line]


def test_events(busybox: Wherry) -> None:
    namespace = busybox.namespace
    watched = Events(busybox, f"namespace=={namespace}")
    parsed = Events(busybox, "--json", f"namespace=={namespace},topic~=|^/tasks/|", 'topic=="/namespaces/update"')
    name = busybox.daemon.id()
    assert busybox.run("run", "--rm", "--name", name, "busybox", "sh", "-c", "exit 5").code == 5
    busybox("image", "tag", "busybox", "another name")
    deadline = time.monotonic() + 30
    while not any("/images/create" in line for line in watched.lines) and time.monotonic() < deadline:
        time.sleep(0.02)
    lines = [line.split("  ") for line in watched.stop()]
    topics = [topic for _time, where, topic, *_ in lines if where == namespace]
    for topic in ("/snapshot/prepare", "/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit"):
        assert topic in topics
    (ended,) = (details for _time, _where, topic, details in lines if topic == "/tasks/exit")
    assert f"container_id={name} id={name} " in ended
    assert " exit_status=5 " in ended
    (tagged,) = (details for _time, _where, topic, details in lines if topic == "/images/create")
    assert tagged == 'name="another name"\n'
    events = [json.loads(line) for line in parsed.stop()]
    assert {event["namespace"] for event in events} == {namespace}
    assert [event["topic"] for event in events] == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    assert events[2]["event"]["type"] == "containerd.events.TaskExit"
    assert events[2]["event"]["value"]["exit_status"] == 5


def test_version(wherry: Wherry) -> None:
    lines = wherry("version").splitlines()
    assert lines[0] == "client:"
    assert [line.split()[0] for line in lines[1:3]] == ["wherry", "python"]
    assert lines[3] == "server:"
    server = wherry.json("version", "--json")["server"]
    assert server["address"] == wherry.daemon.address
    assert server["version"] in wherry.daemon.ctr("version").check().text
    assert server["uuid"] in wherry.daemon.ctr("version").check().text


def test_version_without_a_daemon(tmp_path: Path) -> None:
    address = str(tmp_path / "absent.sock")
    result = run([COMMANDS / "wherry", "--address", address, "version"])
    assert result.code == 1
    assert result.text.startswith("client:\n  wherry ")
    assert "server" not in result.text
    assert result.error_text.startswith(f"wherry: no daemon answers at {address}: start one with `wherryd`")
    result = run([COMMANDS / "wherry", "--address", address, "version", "--json"])
    assert result.code == 1
    assert json.loads(result.text)["server"] is None


def test_plugins(wherry: Wherry) -> None:
    rows = [row.split() for row in wherry("plugin", "ls", "type~=snapshotter").splitlines()[1:]]
    assert ["io.containerd.snapshotter.v1", "overlayfs", "linux/amd64", "ok"] in rows
    names = wherry("plugin", "ls", "-q").split()
    assert "io.containerd.grpc.v1.images" in names
    plugins = wherry.json("plugin", "ls", "--json")
    assert len(plugins) == len(names)
    assert all(plugin["type"] and plugin["id"] for plugin in plugins)


def test_names_cannot_play_with_the_terminal(busybox: Wherry) -> None:
    busybox("image", "tag", BUSYBOX, "evil\x1b[2J\nname")
    assert "evil\\x1b[2J\\nname" in busybox("image", "ls")
    assert "\x1b" not in busybox("image", "ls")

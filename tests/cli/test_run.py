"""wherry run and exec, every flag, against wherryd and against containerd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.commands import Wherry
from tests.harness import archives, leaks
from tests.harness.command import environment


@pytest.fixture(autouse=True)
def nothing_is_left(busybox: Wherry) -> object:
    """After each test that removed its containers, the namespace holds none of them, nor of their snapshots."""
    yield
    for name in busybox("container", "ls", "-q").split():
        busybox("rm", "-f", name)
    assert leaks.remaining(lambda: list(leaks.processes(busybox.namespace))) == []
    listing = busybox.json("snapshot", "ls", "--json")
    assert [each["name"] for each in listing if each["kind"] != "committed"] == []


def spec(wherry: Wherry, name: str) -> dict[str, object]:
    """Return a container's OCI specification, as Debian's ctr shows it."""
    shown = wherry.daemon.ctr("containers", "info", "--spec", name, namespace=wherry.namespace).check()
    document: dict[str, object] = json.loads(shown.text)
    return document


def test_output_and_status(busybox: Wherry) -> None:
    ran = busybox.run("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.code, ran.output, ran.errors) == (7, b"out\n", b"err\n")
    assert busybox("container", "ls", "-q") == ""


def test_the_images_own_command(busybox: Wherry, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    image = archives.busybox(
        "example.org/own:1",
        Entrypoint=["/bin/exits"],
        Cmd=["5"],
        Env=["PATH=/bin", "HOME=/nowhere", "COLOUR=blue"],
        WorkingDir="/home",
        User="guest",
        Labels={"from": "image"},
    )
    archive.write_bytes(image.oci())
    busybox("image", "import", archive)
    run = ("run", "--rm", "example.org/own:1")
    assert (busybox.run(*run).output, busybox.run(*run).code) == (b"leaving with 5\n", 5)
    assert busybox.run(*run, "6").code == 6
    shown = busybox("run", "--rm", "--entrypoint", "sh", "example.org/own:1", "-c", "id; pwd; echo $COLOUR $HOME")
    assert shown.splitlines() == [
        "uid=1000(guest) gid=1000(guest) groups=1000(guest),2000(extra)",
        "/home",
        "blue /nowhere",
    ]
    name = busybox.daemon.id()
    assert busybox.run("run", "--name", name, "--label", "own=1", "example.org/own:1", "0").code == 0
    assert busybox.json("container", "inspect", name)[0]["labels"] == {"from": "image", "own": "1"}


def test_environment(busybox: Wherry, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# a remark\n\nA=from the file\nB=2\nPASSED\nABSENT\n")
    flags = ("--env-file", file, "--env", "A=1", "-e", "EMPTY=", "--env", "OURS", "-e", "FROM_IMAGE")
    ran = busybox.run(
        *("run", "--rm", *flags, "busybox", "env"), env={"OURS": "mine", "PASSED": "on", "FROM_IMAGE": "ours"}
    )
    lines = {line for line in ran.check().text.splitlines() if not line.startswith(("PATH=", "HOSTNAME="))}
    assert lines == {"A=1", "B=2", "PASSED=on", "EMPTY=", "OURS=mine", "FROM_IMAGE=ours", "HOME=/root"}
    # A name alone that we have no value for takes the image's variable away, as Docker has it.
    assert "FROM_IMAGE" not in busybox("run", "--rm", "-e", "FROM_IMAGE", "busybox", "env")


def test_mounts(busybox: Wherry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside\n")
    script = "cat /inside/file; echo new > /inside/new; cat /seen/file; echo no > /seen/file"
    ran = busybox.run(
        *("run", "--rm", "--mount", f"type=bind,src={tmp_path},dst=/inside,options=rbind:rw"),
        *("--mount", f"type=bind,src={tmp_path},dst=/seen,options=rbind:ro"),
        *("busybox", "sh", "-c", script),
    )
    assert ran.code == 1
    assert ran.text == "from outside\nfrom outside\n"
    assert "Read-only file system" in ran.error_text
    assert (tmp_path / "new").read_text() == "new\n"
    assert (tmp_path / "file").read_text() == "from outside\n"
    mounted = busybox("run", "--rm", "--mount", "type=tmpfs,dst=/mem,options=size=64k", "busybox", "df", "/mem")
    assert mounted.splitlines()[1].split()[:2] == ["tmpfs", "64"]


def test_read_only(busybox: Wherry) -> None:
    ran = busybox.run("run", "--rm", "--read-only", "busybox", "sh", "-c", "cat /etc/motd; echo > /etc/motd")
    assert (ran.code, ran.text) == (1, "second layer\n")
    assert "Read-only file system" in ran.error_text


CAPABILITIES = "grep CapEff /proc/self/status"


def capabilities(wherry: Wherry, *flags: str) -> int:
    return int(wherry("run", "--rm", *flags, "busybox", "sh", "-c", CAPABILITIES).split()[1], 16)


def test_privileged(busybox: Wherry) -> None:
    name = busybox.daemon.id()
    script = f"{CAPABILITIES}; echo 1 > /proc/sys/net/ipv4/ip_forward && mount -t tmpfs t /tmp && ls /dev | wc -l"
    capability, devices = busybox("run", "--privileged", "--name", name, "busybox", "sh", "-c", script).splitlines()
    with open("/proc/self/status") as status:
        (ours,) = (line.split()[1] for line in status if line.startswith("CapEff"))
    assert int(capability.split()[1], 16) == int(ours, 16)
    assert int(devices) > 20
    document = json.dumps(spec(busybox, name))
    assert "maskedPaths" not in document or '"maskedPaths": []' in document
    ran = busybox.run("run", "--rm", "busybox", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    assert ran.code == 1 and "Read-only file system" in ran.error_text


def test_capabilities(busybox: Wherry) -> None:
    usual = capabilities(busybox)
    assert usual == 0xA80425FB  # containerd's fourteen
    assert capabilities(busybox, "--cap-drop", "CAP_CHOWN") == usual & ~1
    assert capabilities(busybox, "--cap-drop", "ALL") == 0
    assert capabilities(busybox, "--cap-drop", "all", "--cap-add", "net_bind_service") == 1 << 10
    assert capabilities(busybox, "--cap-add", "CAP_SYS_ADMIN") == usual | 1 << 21


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("guest", "uid=1000(guest) gid=1000(guest) groups=1000(guest),2000(extra)"),
        ("1000", "uid=1000(guest) gid=1000(guest) groups=1000(guest),2000(extra)"),
        ("4321", "uid=4321 gid=0(root)"),
        ("4321:5432", "uid=4321 gid=5432 groups=5432"),
        ("guest:extra", "uid=1000(guest) gid=2000(extra) groups=2000(extra)"),
        ("0:0", "uid=0(root) gid=0(root) groups=0(root)"),
    ],
)
def test_user(busybox: Wherry, user: str, shown: str) -> None:
    assert busybox("run", "--rm", "--user", user, "busybox", "id").strip() == shown


def test_places_and_names(busybox: Wherry) -> None:
    assert busybox("run", "--rm", "--cwd", "/home/guest", "busybox", "pwd") == "/home/guest\n"
    assert busybox("run", "--rm", "-w", "/made/here", "busybox", "pwd") == "/made/here\n"
    assert busybox("run", "--rm", "--hostname", "boat", "busybox", "hostname") == "boat\n"
    host = os.readlink("/proc/self/ns/net")
    assert busybox("run", "--rm", "--net", "host", "busybox", "readlink", "/proc/self/ns/net").strip() == host
    alone = busybox("run", "--rm", "busybox", "ip", "-o", "link")
    assert [line.split()[1] for line in alone.splitlines()][:1] == ["lo:"]
    assert busybox("run", "--rm", "busybox", "readlink", "/proc/self/ns/net").strip() != host


def test_limits(busybox: Wherry) -> None:
    name = busybox.daemon.id()
    flags = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "33")
    busybox("run", "-d", "--name", name, *flags, "busybox", "sleep", "1000")
    (shown,) = busybox.json("ps", "--json")
    lines = Path(f"/proc/{shown['pid']}/cgroup").read_text().splitlines()
    places = {
        controller: path
        for line in lines
        for controller in line.split(":")[1].split(",")
        for path in [line.split(":")[2]]
    }

    def figure(controller: str, v1: str, v2: str) -> str:
        if controller in places:
            return (Path("/sys/fs/cgroup") / controller / places[controller].lstrip("/") / v1).read_text().strip()
        return (Path("/sys/fs/cgroup") / places[""].lstrip("/") / v2).read_text().strip()

    assert figure("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert figure("pids", "pids.max", "pids.max") == "33"
    assert figure("cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    eaten = busybox.run("run", "--rm", "--memory", "16m", "busybox", "sh", "-c", "head -c 100m /dev/zero | tail")
    assert eaten.code in (1, 137)


@pytest.mark.parametrize("runtime", ["io.containerd.runc.v2", "io.containerd.runtime.v1.linux"])
@pytest.mark.parametrize("binary", ["", "crun", "/usr/sbin/runc"])
def test_runtimes(busybox: Wherry, crun: str, runtime: str, binary: str) -> None:
    flags = ("--runtime", runtime, *(("--runc-binary", crun if binary == "crun" else binary) if binary else ()))
    ran = busybox.run("run", "--rm", *flags, "busybox", "exits", "9")
    assert (ran.code, ran.text) == (9, "leaving with 9\n"), ran.error_text


def test_a_directory_as_root(busybox: Wherry, busybox_rootfs: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", busybox_rootfs, "-C", root], check=True)
    assert busybox("run", "--rm", "--rootfs", root, "cat", "/etc/group").startswith("root:x:0:")
    assert busybox.run("run", "--rm", "--user", "guest", "--rootfs", root, "touch", "/home/new").code == 1
    busybox("run", "--rm", "--rootfs", root, "touch", "/home/new")
    assert (root / "home/new").exists()


def test_a_native_snapshot(busybox: Wherry) -> None:
    assert busybox("run", "--rm", "--snapshotter", "native", "busybox", "cat", "/etc/motd") == "second layer\n"


def test_detached(busybox: Wherry) -> None:
    name = busybox.daemon.id()
    assert busybox("run", "--detach", "--name", name, "--label", "a=b", "busybox", "sleep", "1000") == f"{name}\n"
    again = busybox.run("run", "-d", "--name", name, "busybox", "true")
    assert (again.code, again.text) == (125, "")
    assert again.error_text == (
        f'wherry: container "{name}": choose another --name, or remove it with `wherry rm {name}`: already exists\n'
    )
    assert busybox("exec", name, "cat", "/etc/motd") == "second layer\n"
    busybox("rm", "-f", name)
    chosen = busybox("run", "-d", "busybox", "sleep", "1000").strip()
    assert busybox("ps", "-q").strip() == chosen


def test_input(busybox: Wherry) -> None:
    data = os.urandom(300_000)
    assert busybox.run("run", "--rm", "-i", "busybox", "cat", input=data).output == data
    # Without -i there is none.
    assert busybox.run("run", "--rm", "busybox", "cat", input=b"unread").output == b""


def test_much_output(busybox: Wherry) -> None:
    ran = busybox.run("run", "--rm", "busybox", "sh", "-c", "head -c 5000000 /dev/zero; head -c 3000000 /dev/zero >&2")
    assert (len(ran.output), len(ran.errors)) == (5_000_000, 3_000_000)


def test_output_to_nobody(busybox: Wherry) -> None:
    """As in `wherry run … | head`: the reader goes first."""
    piped = subprocess.run(
        [f"{' '.join(busybox.command('run', '--rm', 'busybox', 'seq', '1000000'))} | head -1"],
        shell=True,
        capture_output=True,
        env=environment(),
        timeout=60,
    )
    assert piped.stdout == b"1\n" and b"Traceback" not in piped.stderr


def test_timing(busybox: Wherry) -> None:
    ran = busybox.run("run", "--rm", "--timing", "busybox", "true").check()
    steps = [line.split()[0] for line in ran.error_text.splitlines()]
    assert steps == "connect image snapshot container create start run delete remove total".split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals(busybox: Wherry, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got {name}; exit 3' {name}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        busybox.command("run", "--rm", "busybox", "sh", "-c", script), stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.read() == f"got {name}\n".encode()
        assert process.wait(30) == 3


TERMINAL = (
    "tty; stty size; echo ready; read line; echo got $line; until [ \"$(stty size)\" = '30 100' ]; do :; done; exit 5"
)


@pytest.mark.parametrize("command", ["run", "exec"])
def test_terminal(busybox: Wherry, command: str) -> None:
    name = busybox.daemon.id()
    flags = ["run", "--rm", "-it", "busybox"]
    if command == "exec":
        busybox("run", "-d", "--name", name, "busybox", "sleep", "1000")
        flags = ["exec", "-it", name]
    with busybox.terminal(*flags, "sh", "-c", TERMINAL) as terminal:
        before = terminal.attributes()
        terminal.read_until("/dev/pts/0")
        terminal.read_until("ready")
        assert terminal.attributes() != before, "the terminal is not raw"
        terminal.enter("a line\r")
        terminal.read_until("got a line")
        terminal.resize(30, 100)
        assert terminal.wait() == 5
        assert terminal.attributes() == before


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_terminal_is_restored_however_it_ends(busybox: Wherry, ending: signal.Signals | None) -> None:
    """Killed with SIGKILL a program can restore nothing; with another signal, or when its daemon fails, it must."""
    with busybox.terminal("run", "--rm", "-it", "busybox", "sh", "-c", "echo ready; exec sleep 1000") as terminal:
        before = terminal.attributes()
        terminal.read_until("ready")
        (shown,) = busybox.json("ps", "--json")
        if ending is signal.SIGTERM:
            os.kill(terminal.pid, ending)  # passed on; sleep as init has no handler, so nothing happens to it
            time.sleep(0.2)
        if ending is signal.SIGKILL:
            os.kill(terminal.pid, ending)
        else:
            os.kill(shown["pid"], signal.SIGKILL)
            assert terminal.wait() == 137
            assert terminal.attributes() == before


def test_control_c_in_a_terminal_is_the_containers(busybox: Wherry) -> None:
    with busybox.terminal(
        "run",
        "--rm",
        "-it",
        "busybox",
        "sh",
        "-c",
        "trap 'echo caught; exit 4' INT; echo ready; while :; do sleep 0.05; done",
    ) as terminal:
        terminal.read_until("ready")
        terminal.enter("\x03")
        terminal.read_until("caught")
        assert terminal.wait() == 4


def test_a_terminal_without_input(busybox: Wherry) -> None:
    ran = busybox.run("run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo err >&2")
    assert (ran.code, ran.text) == (0, "/dev/pts/0\r\nerr\r\n")
    refused = busybox.run("run", "--rm", "-it", "busybox", "true")
    assert refused.code != 0 and "standard input is no terminal" in refused.error_text


def test_exec(busybox: Wherry) -> None:
    name = busybox.daemon.id()
    busybox("run", "-d", "--name", name, "--env", "A=1", "busybox", "sleep", "1000")
    ran = busybox.run("exec", name, "sh", "-c", "echo out; echo err >&2; exit 6")
    assert (ran.code, ran.output, ran.errors) == (6, b"out\n", b"err\n")
    shown = busybox(
        "exec", "-e", "B=2", "-u", "guest", "-w", "/home", name, "sh", "-c", "id -u; pwd; echo $A $B $FROM_IMAGE"
    )
    assert shown.splitlines() == ["1000", "/home", "1 2 1"]
    data = os.urandom(300_000)
    assert busybox.run("exec", "-i", name, "cat", input=data).output == data
    busybox("exec", "-d", name, "sh", "-c", "echo $$ > /pid; exec sleep 999")
    deadline = time.monotonic() + 30
    while "sleep 999" not in busybox("exec", name, "ps"):
        assert time.monotonic() < deadline
    absent = busybox.run("exec", "absent", "true")
    assert absent.code != 0 and "absent" in absent.error_text and "Traceback" not in absent.error_text


def test_signals_reach_an_exec(busybox: Wherry) -> None:
    name = busybox.daemon.id()
    busybox("run", "-d", "--name", name, "busybox", "sleep", "1000")
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        busybox.command("exec", name, "sh", "-c", script), stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(30) == 3


@pytest.mark.parametrize(
    "flags",
    [("-d", "--rm"), ("-d", "-i"), ("--memory", "much"), ("--cpus", "-1"), ("--label", "=x"), ("--net", "moon")],
)
def test_flags_that_cannot_be(busybox: Wherry, flags: tuple[str, ...]) -> None:
    ran = busybox.run("run", *flags, "busybox", "true")
    assert ran.code in (2, 125) and ran.text == "" and "Traceback" not in ran.error_text
    assert busybox("container", "ls", "-q") == ""

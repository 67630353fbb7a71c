"""`ctr run`, with each of its ways and flags."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.differential.transcript import TERMINAL_SCRIPT, Side, differential, use_terminal
from tests.harness import archives
from tests.harness.archives import BUSYBOX

V1, V2 = "io.containerd.runtime.v1.linux", "io.containerd.runc.v2"

both_runtimes = pytest.mark.parametrize("runtime", [V2, V1], ids=["v2", "v1"])


def gone(side: Side) -> None:
    """Write down that nothing is left of a `run --rm`, once what nothing holds is collected."""
    side.collect()
    side.ctr("tasks", "ls")
    side.ctr("containers", "ls")
    side.ctr("snapshots", "ls")
    side.ctr("leases", "ls")


@both_runtimes
@differential
def test_output_and_status(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    for script in (
        "echo out; echo err >&2",
        "exit 7",
        "kill -KILL $$",
        "read line; echo $line",
        "head -c 300000 /dev/zero | tr '\\0' x",
    ):
        side.ctr("run", "--rm", "--runtime", runtime, BUSYBOX, side.id("box"), "sh", "-c", script, input=b"typed\n")
    gone(side)


@differential
def test_image_defaults(side: Side) -> None:
    archive = side.directory / "image.tar"
    image = archives.busybox(
        Entrypoint=["echo", "entry"], Cmd=["command"], User="guest", WorkingDir="/var", StopSignal="SIGUSR1"
    )
    archive.write_bytes(image.oci())
    side.quietly("images", "import", archive)
    side.ctr("run", "--rm", BUSYBOX, side.id("box"))
    side.ctr("run", "--rm", BUSYBOX, side.id("box"), "sh", "-c", "id; pwd")
    side.ctr("containers", "create", BUSYBOX, side.id("box"))
    side.ctr("containers", "info", side.id("box"))


@pytest.mark.parametrize("user", ["guest", "1000:2000", "1000", "daemon:extra", "4321", "absent", "guest:absent"])
@differential
def test_image_user(side: Side, user: str) -> None:
    archive = side.directory / "image.tar"
    archive.write_bytes(archives.busybox(User=user).oci())
    side.quietly("images", "import", archive)
    side.ctr("run", "--rm", BUSYBOX, side.id("box"), "id")
    gone(side)


SEEN = "env | sort; pwd; hostname; id; umask; ulimit -n; cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l"

FLAGS = {
    "env": (("--env", "A=1", "--env", "B=two words", "--env", "FROM_IMAGE"), SEEN),
    "cwd": (("--cwd", "/made/by/runc"), "pwd"),
    "net-host": (("--net-host",), "cat /etc/hosts /etc/resolv.conf | wc -l; readlink /proc/self/ns/net"),
    "read-only": (("--read-only",), "touch /file; touch /dev/shm/file; echo $?"),
    "privileged": (("--privileged",), "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; ls /dev | wc -l"),
    "capabilities": (
        ("--cap-add", "CAP_SYS_ADMIN", "--cap-drop", "CAP_CHOWN"),
        "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status",
    ),
    "defaults": ((), "grep -E '^(Cap|NoNew|Seccomp)' /proc/self/status; ls -l /dev /dev/pts; cat /proc/self/cgroup"),
    "mounts": ((), "cut -d' ' -f2-6 /proc/mounts | grep -v upperdir"),
    "seccomp": (("--seccomp",), "grep -E '^Seccomp:' /proc/self/status; unshare -U true"),
    "new-privileges": (("--allow-new-privs",), "grep NoNew /proc/self/status"),
    "cgroup": ((), "cat /proc/self/cgroup"),
    "no-cgroup": (("--cgroup", ""), "echo here"),
    "cpus": (("--cpus", "0.5"), "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    "shares": (("--cpu-shares", "512"), "cat /sys/fs/cgroup/cpu/cpu.shares"),
    "memory": (("--memory-limit", "67108864"), "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"),
    "device": (("--device", "/dev/zero:/dev/nought:r"), "ls /dev/nought /dev/zero"),
    "no-pivot": (("--no-pivot",), "ls /"),
    "annotation": (("--annotation", "a=b", "--label", "c=d"), "true"),
    "null-io": (("--null-io",), "echo unseen; exit 3"),
    "native": (("--snapshotter", "native"), "cat /etc/motd"),
    "platform": (("--platform", "linux/amd64"), "cat /etc/motd"),
    "user namespace": (("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"), "cat /proc/self/uid_map; id"),
    "propagation": (("--rootfs-propagation", "slave"), "true"),
    "runc-binary": (("--runc-binary", "/usr/sbin/runc"), "echo from runc"),
    "runc-binary absent": (("--runc-binary", "/absent/runc"), "echo from runc"),
    "runtime absent": (("--runtime", "io.containerd.absent.v2"), "true"),
    "runtime path absent": (("--runtime", "/absent/shim"), "true"),
    "runtime malformed": (("--runtime", "nonsense"), "true"),
}


@pytest.mark.parametrize("name", FLAGS)
@differential
def test_flag(side: Side, busybox_archive: Path, name: str) -> None:
    flags, script = FLAGS[name]
    side.quietly("images", "import", *(flags if "native" in flags else ()), busybox_archive)
    side.ctr("run", "--rm", *flags, BUSYBOX, side.id("box"), "sh", "-c", script)
    gone(side)


@differential
def test_env_file(side: Side, busybox_archive: Path) -> None:
    file = side.directory / "env"
    file.write_text("A=1\n\nB=two words\nC\n")
    side.quietly("images", "import", busybox_archive)
    side.ctr("run", "--rm", "--env-file", file, BUSYBOX, side.id("box"), "env")
    side.ctr("run", "--rm", "--env-file", "/absent", BUSYBOX, side.id("box"), "env")


@both_runtimes
@differential
def test_mount(side: Side, busybox_archive: Path, runtime: str) -> None:
    shared = side.directory / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host\n")
    side.quietly("images", "import", busybox_archive)
    mount = f"type=bind,src={shared},dst=/mnt/shared"
    script = "cat /mnt/shared/file; echo back > /mnt/shared/written"
    for options in ("rbind:ro", "rbind:rw"):
        side.ctr(
            *("run", "--rm", "--runtime", runtime, "--mount", f"{mount},options={options}"),
            *("--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=size=1m", BUSYBOX, side.id("box")),
            *("sh", "-c", script + "; df /scratch | tail -1"),
        )
    side.note("written", (shared / "written").read_text())
    side.ctr("run", "--rm", "--mount", "type=bind,src=/absent,dst=/x,options=rbind", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--mount", "nonsense", BUSYBOX, side.id("box"), "true")
    gone(side)


@both_runtimes
@differential
def test_with_ns(side: Side, busybox_archive: Path, runtime: str) -> None:
    file = side.directory / "net"
    file.touch()
    subprocess.run(["unshare", f"--net={file}", "ip", "link", "set", "lo", "up"], check=True)
    try:
        side.quietly("images", "import", busybox_archive)
        for namespace in (f"network:{file}", f"network:{file}.absent", "nonsense"):
            side.ctr(
                *("run", "--rm", "--runtime", runtime, "--with-ns", namespace, BUSYBOX, side.id("box")),
                *("ip", "-o", "link", "show", "lo"),
            )
    finally:
        subprocess.run(["umount", file], check=True)
    gone(side)


@both_runtimes
@differential
def test_detach(side: Side, busybox_archive: Path, runtime: str) -> None:
    box = side.id("box")
    side.quietly("images", "import", busybox_archive)
    side.ctr("run", "--detach", "--runtime", runtime, BUSYBOX, box, "sleep", "1000")
    side.ctr("tasks", "ls")
    side.ctr("containers", "ls")
    side.ctr("run", "--detach", "--runtime", runtime, BUSYBOX, box, "sleep", "1000")
    side.ctr("tasks", "kill", "--signal", "SIGKILL", box)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "ls")
    side.ctr("tasks", "rm", box)
    side.ctr("containers", "rm", box)
    gone(side)


@both_runtimes
@differential
def test_terminal(side: Side, busybox_archive: Path, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    command = ("sh", "-c", TERMINAL_SCRIPT)
    with side.terminal("run", "--rm", "--tty", "--runtime", runtime, BUSYBOX, side.id("box"), *command) as terminal:
        use_terminal(terminal)
    gone(side)


@differential
def test_signal_is_forwarded(side: Side, busybox_archive: Path) -> None:
    side.quietly("images", "import", busybox_archive)
    box = side.id("box")
    script = "trap 'echo got it; exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    running = side.start("run", "--rm", BUSYBOX, box, "sh", "-c", script)
    try:
        side.until(lambda: (box, "RUNNING") in side._statuses(), "not running")
        side.until(lambda: _traps(side.pid(box), signal.SIGUSR1), "no trap")
        running.signal(signal.SIGUSR1)
        running.wait()
    finally:
        running.end()
    gone(side)


def _traps(pid: int, number: signal.Signals) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@differential
def test_pid_file(side: Side, busybox_archive: Path) -> None:
    box, file = side.id("box"), side.directory / "pid"
    side.quietly("images", "import", busybox_archive)
    side.ctr("run", "--detach", "--null-io", "--pid-file", file, BUSYBOX, box, "sleep", "1000")
    side.note("the pid file is right", int(file.read_text()) == side.pid(box))
    os.kill(int(file.read_text()), signal.SIGKILL)
    side.wait_for(box, "STOPPED")
    side.ctr("tasks", "rm", box)


@both_runtimes
@differential
def test_root_file_system(side: Side, runtime: str) -> None:
    rootfs = side.directory / "rootfs"
    rootfs.mkdir()
    subprocess.run(["tar", "-x", "-C", rootfs], input=archives.rootfs_tar(), check=True)
    side.ctr("run", "--rm", "--runtime", runtime, "--rootfs", rootfs, side.id("box"), "/bin/cat", "/etc/group")
    side.ctr("run", "--rm", "--runtime", runtime, "--rootfs", "/absent", side.id("box"), "/bin/true")
    gone(side)


@differential
def test_config(side: Side) -> None:
    rootfs, config = side.directory / "rootfs", side.directory / "config.json"
    rootfs.mkdir()
    subprocess.run(["tar", "-x", "-C", rootfs], input=archives.rootfs_tar(), check=True)
    subprocess.run(["runc", "spec", "--bundle", side.directory], check=True)
    spec = json.loads(config.read_text())
    spec["process"].update(terminal=False, args=["echo", "from the config"])
    spec["root"]["path"] = str(rootfs)
    config.write_text(json.dumps(spec))
    side.ctr("run", "--rm", "--config", config, side.id("box"))
    gone(side)


@both_runtimes
@differential
def test_log_file(side: Side, busybox_archive: Path, runtime: str) -> None:
    log = side.directory / "deep" / "log"
    side.quietly("images", "import", busybox_archive)
    uri = f"file://{log}"
    side.ctr(
        *("run", "--rm", "--runtime", runtime, "--log-uri", uri, BUSYBOX, side.id("box")),
        *("sh", "-c", "echo out; echo err >&2"),
    )
    if runtime == V2:
        side.note("log", sorted(log.read_text().splitlines()))
    gone(side)


BAD_COMMANDS = {
    "absent": ["/absent"],
    "absent in PATH": ["absent-program"],
    "no program": ["/etc/not-a-program"],
    "no binary": ["/bin/not-a-binary"],
    "directory": ["/etc"],
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
@both_runtimes
@differential
def test_bad_command(side: Side, busybox_archive: Path, name: str, runtime: str) -> None:
    side.quietly("images", "import", busybox_archive)
    side.ctr("run", "--rm", "--runtime", runtime, BUSYBOX, side.id("box"), *BAD_COMMANDS[name])
    # Detached, without streams: what a process writes that ends at once may or may not be seen.
    side.ctr("run", "--detach", "--null-io", "--runtime", runtime, BUSYBOX, side.id("other"), *BAD_COMMANDS[name])
    gone(side)


@differential
def test_bad_arguments(side: Side, busybox_archive: Path) -> None:
    side.ctr("run", "--rm", "absent:1", side.id("box"), "true")
    side.quietly("images", "import", "--no-unpack", busybox_archive)
    side.ctr("run", "--rm", BUSYBOX, "a--b", "true")
    side.ctr("run", "--rm", BUSYBOX, "x" * 77, "true")
    side.ctr("run", "--rm", BUSYBOX)
    side.ctr("run", "--rm", "--detach", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--snapshotter", "absent", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--cwd", "relative", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--cap-add", "CAP_NONSENSE", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--memory-limit", "1", BUSYBOX, side.id("box"), "true")
    gone(side)


@differential
def test_image_of_another_platform(side: Side) -> None:
    archive = side.directory / "image.tar"
    good = archives.busybox()
    config = archives.config(good.layers, {}, architecture="arm64")
    archive.write_bytes(archives.Archive(good.layers, config, architecture="arm64").oci())
    side.ctr("images", "import", "--no-unpack", archive)
    side.ctr("images", "import", "--all-platforms", "--no-unpack", archive)
    side.ctr("run", "--rm", BUSYBOX, side.id("box"), "true")
    side.ctr("run", "--rm", "--platform", "linux/arm64", BUSYBOX, side.id("box"), "cat", "/etc/motd")
    gone(side)


@differential
def test_container_made_before(side: Side, busybox_archive: Path) -> None:
    box = side.id("box")
    side.quietly("images", "import", busybox_archive)
    side.quietly("containers", "create", BUSYBOX, box, "exits", "4")
    side.ctr("tasks", "start", box)
    side.ctr("tasks", "start", box)
    side.ctr("tasks", "ls")
    side.ctr("tasks", "rm", box)
    side.ctr("tasks", "start", "absent")

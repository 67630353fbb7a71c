"""podman, and conmon below it, with wherry-runc: what they say of containers is what they say with runc."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.docker.transcript import ENDS, IMAGE, EngineSide, Volatile, played_by
from tests.harness.command import run
from tests.harness.podman import Podman
from tests.runc.seams.conftest import PROGRAMS

VOLATILE = (
    Volatile(r"\S*/wherry-runc\b|\bwherry-runc\b|/usr/s?bin/runc", "runc", "Which of both it is."),
    Volatile(r"^\S*[0-9a-f]{12}$", "<id>", "An id cut short."),
    Volatile(r'^time="[^"]+"', "time=<time>", "Lines of podman's own log."),
    Volatile(r"^USER +PID .*", "<head>", "Of `podman top`, as wide as its times."),
    Volatile(r"^(root +)\d+( +)\d+ .*\? +\d+s +", r"\1", "`podman top`: pids inside, the time that it ran."),
    Volatile(r'^time=<time> level=warning msg="(cannot toggle freezer|lstat ).*\n', "", "runc, of a cgroup not there."),
    Volatile(
        r"^\S*ERRO\S* container not running *\r?\n", "", "The signal of a new size, handed on, may come too late."
    ),
    Volatile("unable to become user 5:6:", "unable to setup user:", "Ours says which."),
)


class PodmanSide(EngineSide):
    """One podman during one flow."""

    same_races = True

    def __init__(self, podman: Podman) -> None:
        super().__init__(podman)
        self.podman = podman

    def normal(self, text: str) -> str:
        text = super().normal(text)
        for volatile in VOLATILE:
            text = re.sub(volatile.pattern, volatile.replacement, text, flags=re.MULTILINE)
        return text

    def figures(self, name: str) -> dict[str, str]:
        """Return what `podman stats` says of a container."""
        figures: list[dict[str, str]] = json.loads(self.quietly("stats", "--no-stream", "--format", "json", name))
        return figures[0]


def differential(flow: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a flow of root's."""
    return played_by(flow, PodmanSide, "podmans", "runc")


def rootless(flow: Callable[..., None]) -> Callable[..., None]:
    """Make a test of a flow of a user's."""
    return played_by(flow, PodmanSide, "rootless_podmans", "runc")


def test_which_runtime(podmans: Mapping[str, Podman]) -> None:
    """podman runs what it is told to, the one below keeps the container, and the other one has no part in it."""
    for name, podman in podmans.items():
        id = podman.docker("run", "--detach", IMAGE, "sleep", "1000").check().text.strip()
        assert podman.docker("inspect", "--format", "{{.OCIRuntime}}", id).text.strip() == name
        for other, program in PROGRAMS.items():
            assert podman.known_to(program) == ([id] if other == name else [])
            if other != name:
                refused = run([program, "delete", id])
                assert refused.code == 1 and "does not exist" in refused.error_text
                run([program, "delete", "--force", id])
        assert podman.docker("exec", id, "echo", "still there").check().text == "still there\n"


# -- containers of root's ----------------------------------------------------------------------------------------------


def _run_and_fail(side: PodmanSide, *programs: str) -> None:
    script = "cat; echo err >&2; id; pwd; echo $A; hostname; exit 3"
    flags = ("--interactive", "--workdir", "/tmp", "--env", "A=b", "--hostname", "here")
    side.docker("run", "--rm", *flags, IMAGE, "sh", "-c", script, input=b"typed\n")
    for program in programs:
        side.docker("run", "--rm", IMAGE, program)
    side.docker("ps", "--all", "--quiet")


def _live(side: PodmanSide) -> None:
    side.quietly("run", "--detach", "--name", "box", IMAGE, *ENDS)
    side.ready("box")
    side.docker("exec", "--env", "A=b", "--workdir", "/tmp", "box", "sh", "-c", "echo $A; pwd; id; exit 4")
    side.docker("exec", "--interactive", "box", "cat", input=b"typed\n")
    for program in ("absent-program", "/etc/passwd"):
        side.docker("exec", "box", program)
    side.docker("exec", "--workdir", "/absent", "box", "pwd")
    with side.terminal("exec", "--interactive", "--tty", "box", "sh", "-c", "tty; read line; exit $line") as terminal:
        terminal.read_until("/dev/pts/0\r\n")
        terminal.enter("6\n")
    side.docker("top", "box")
    side.docker("kill", "--signal", "WINCH", "box")
    side.docker("stop", "box")
    side.docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", "box")
    side.docker("exec", "box", "true")
    side.docker("start", "box")
    side.docker("kill", "box")
    side.docker("wait", "box")
    side.docker("logs", "box")
    side.docker("rm", "box")


@differential
def test_run_and_fail(side: PodmanSide) -> None:
    _run_and_fail(side, "absent-program", "/absent/program", "/etc/passwd", "/etc")
    side.docker("run", "--rm", "--workdir", "/etc/passwd", IMAGE, "true")
    script = "id; grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status; cat /proc/self/cgroup | wc -l"
    for flags in (
        ("--user", "1000:2000"),
        ("--privileged",),
        ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"),
        ("--uidmap", "0:10000:5000", "--gidmap", "0:20000:5000"),
    ):
        side.docker("run", "--rm", *flags, IMAGE, "sh", "-c", script)


@differential
def test_life(side: PodmanSide) -> None:
    _live(side)


@differential
def test_terminal(side: PodmanSide) -> None:
    command = ("run", "--rm", "--interactive", "--tty", IMAGE, "sh", "-c")
    with side.terminal(
        *command, "tty; until stty size | grep 30; do sleep 0.1; done; read line; exit $line"
    ) as terminal:
        terminal.read_until("/dev/pts/0\r\n")
        terminal.resize(30, 90)
        terminal.read_until("30 90\r\n")
        terminal.enter("5\n")


@differential
def test_pause_figures_and_limits(side: PodmanSide) -> None:
    limits = ("--memory", "64m", "--pids-limit", "20", "--cpus", "0.5")
    side.quietly("run", "--detach", "--name", "box", *limits, IMAGE, *ENDS)
    side.ready("box")
    side.docker("pause", "box")
    side.docker("exec", "box", "true")
    side.docker("pause", "box")
    side.docker("ps", "--format", "{{.Names}} {{.State}}")
    side.docker("inspect", "--format", "{{.State.Status}}", "box")
    side.docker("unpause", "box")
    files = ("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.shares")
    side.docker("exec", "--workdir", "/sys/fs/cgroup", "box", "cat", *files)
    figures = side.figures("box")
    side.note("figures", (figures["pids"], figures["mem_usage"].split(" / ")[1]))
    side.docker("update", "--memory", "32m", "--cpus", "0.25", "box")
    side.docker("exec", "--workdir", "/sys/fs/cgroup", "box", "cat", *files)
    # A paused one as well.
    side.quietly("pause", "box")
    side.docker("rm", "--force", "--time", "0", "box")


@differential
def test_file_systems(side: PodmanSide) -> None:
    directory = side.engine.directory / "volume"
    directory.mkdir(exist_ok=True)
    (directory / "file").write_text("of the host\n")
    touch = "touch /x; touch /tmp/x && echo may; cat /v/file; touch /v/x; df /t | tail -1; ls -l /dev/z; df /dev/shm"
    side.docker(
        *("run", "--rm", "--read-only", "--volume", f"{directory}:/v:ro", "--tmpfs", "/t:size=1m"),
        *("--device", "/dev/null:/dev/z:r", "--shm-size", "1m", IMAGE, "sh", "-c", touch),
    )
    flags = ("--sysctl", "net.ipv4.ping_group_range=0 5", "--cgroupns", "private", "--ulimit", "core=7:8")
    script = "cat /proc/sys/net/ipv4/ping_group_range /proc/self/cgroup; ulimit -c"
    side.docker("run", "--rm", *flags, IMAGE, "sh", "-c", script)
    # Where an init system may make cgroups of its own.
    made = "mkdir /sys/fs/cgroup/systemd/x && rmdir /sys/fs/cgroup/systemd/x; mkdir /sys/fs/cgroup/memory/x"
    side.docker("run", "--rm", "--systemd", "always", IMAGE, "sh", "-c", made)


@differential
def test_time_out_and_health(side: PodmanSide) -> None:
    side.docker("run", "--rm", "--timeout", "1", IMAGE, "sleep", "1000")
    side.quietly("create", "--name", "box", "--no-healthcheck", IMAGE, "sleep", "1000")
    side.docker("start", "box")
    side.docker("restart", "--time", "0", "box")
    side.docker("inspect", "--format", "{{.State.Status}}", "box")


@differential
def test_pod(side: PodmanSide) -> None:
    _pod(side)
    side.docker("pod", "pause", "pod")
    side.docker("pod", "ps", "--format", "{{.Name}} {{.Status}}")
    side.docker("pod", "unpause", "pod")
    side.docker("pod", "stop", "--time", "0", "pod")
    side.docker("pod", "start", "pod")
    side.docker("pod", "rm", "--force", "--time", "0", "pod")


def _pod(side: PodmanSide) -> None:
    """Make a pod whose containers share a pid namespace, which is more than they do otherwise."""
    # What podman has for it otherwise is not in Debian's package.
    infra = ("--infra-image", f"localhost/{IMAGE}", "--infra-command", "sleep 1000")
    side.docker("pod", "create", "--share", "ipc,uts,pid,net", *infra, "--name", "pod")
    side.docker("run", "--rm", "--pod", "pod", IMAGE, "hostname")
    side.docker("run", "--detach", "--pod", "pod", "--name", "box", IMAGE, "sleep", "999")
    side.docker("exec", "box", "sh", "-c", "ps | grep -c '[s]leep 1000'; ps | grep -c '[s]leep 999'; hostname")
    side.docker("run", "--pod", "pod", IMAGE, "absent-program")


@differential
def test_build(side: PodmanSide) -> None:
    _build(side)


def _build(side: PodmanSide) -> None:
    context = side.engine.directory / "context"
    context.mkdir(exist_ok=True)
    busybox = context / "busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    (context / "Dockerfile").write_text("""FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "ln", "-s", "busybox", "/bin/sh"]
WORKDIR /built
RUN echo built > x; /bin/busybox cat x; echo error >&2
CMD ["/bin/busybox", "cat", "/built/x"]
""")
    side.docker("build", "--quiet", "--tag", "built", context)
    side.docker("run", "--rm", "built")
    (context / "Dockerfile").write_text("FROM built\nRUN exit 9\n")
    side.docker("build", "--quiet", context)
    side.docker("rmi", "--force", "built")


# -- containers of a user's --------------------------------------------------------------------------------------------


@rootless
def test_rootless_run_and_fail(side: PodmanSide) -> None:
    _run_and_fail(side, "absent-program", "/etc/passwd")
    side.docker("run", "--rm", "--user", "5:6", IMAGE, "id")
    side.docker("run", "--rm", "--privileged", IMAGE, "id")


@rootless
def test_rootless_life(side: PodmanSide) -> None:
    _live(side)


@pytest.mark.long  # test_rootless.py has what is particular about it
@rootless
def test_rootless_pod(side: PodmanSide) -> None:
    _pod(side)
    side.docker("pod", "rm", "--force", "--time", "0", "pod")


@pytest.mark.long
@rootless
def test_rootless_build(side: PodmanSide) -> None:
    _build(side)

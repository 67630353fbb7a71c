"""`docker run` and `docker exec`: output, statuses, terminals, and what cannot be run."""

from __future__ import annotations

from tests.differential.transcript import TERMINAL_SCRIPT, use_terminal
from tests.docker.transcript import ENDS, IMAGE, RUN, Side, differential
from tests.harness.command import run


@differential
def test_run(side: Side) -> None:
    script = "cat; echo err >&2; id; pwd; echo $A; hostname; grep -E '^(Cap|Seccomp:)' /proc/self/status; exit 3"
    flags = ("--interactive", "--user", "guest", "--workdir", "/tmp", "--env", "A=b", "--hostname", "here")
    side.run("--rm", *flags, IMAGE, "sh", "-c", script, input=b"typed\n")
    side.run("--rm", IMAGE, "sh", "-c", "kill -9 $$")
    side.docker("ps", "--all", "--quiet")


@differential
def test_run_in_a_terminal(side: Side) -> None:
    command = ("--rm", "--interactive", "--tty", IMAGE, "sh", "-c", TERMINAL_SCRIPT)
    with side.terminal(*RUN, *command) as terminal:
        use_terminal(terminal)


@differential
def test_what_cannot_be_run(side: Side) -> None:
    for name, program in (("box", "absent-program"), ("other", "/etc/passwd"), ("third", "/absent/program")):
        side.run("--name", name, IMAGE, program)
        side.state(name)
    side.events("box")


@differential
def test_init(side: Side) -> None:
    side.started("box", "--init", IMAGE, *ENDS)
    side.ready("box")
    side.docker("exec", "box", "cat", "/proc/1/comm")
    side.docker("stop", "box")
    side.state("box")


@differential
def test_pid_namespace_of_the_host(side: Side) -> None:
    """What a container without a pid namespace of its own leaves behind is ended with it."""
    side.run("--name", "box", "--pid", "host", IMAGE, "sh", "-c", "sleep 1000 & test $$ -gt 50 && echo of the host")
    side.state("box")


@differential
def test_exec(side: Side) -> None:
    side.started("box")
    command = ("sh", "-c", "cat; echo err >&2; id; pwd; echo $A; exit 4")
    side.docker("exec", "-iu", "1000:2000", "-w", "/tmp", "-e", "A=b", "box", *command, input=b"typed\n")
    side.docker("exec", "box", "sh", "-c", "kill -9 $$")
    side.docker("exec", "--detach", "box", "touch", "/ready")
    side.ready("box")
    side.docker("exec", "box", "absent-program")
    side.docker("exec", "box", "/etc/passwd")
    side.docker("exec", "--workdir", "/absent", "box", "pwd")
    side.docker("exec", "--user", "absent", "box", "id")
    with side.terminal("exec", "--interactive", "--tty", "box", "sh", "-c", TERMINAL_SCRIPT) as terminal:
        use_terminal(terminal)
    side.docker("top", "box", "-o", "pid,args")
    side.events("box")
    # An exec ends with its container.
    with side.start("exec", "box", "sh", "-c", "echo here; sleep 1000") as execution:
        execution.read_until(b"here")
        side.docker("kill", "box")
        execution.wait()
    side.wait_for("box", "exited")
    side.docker("exec", "box", "true")


@differential
def test_known_to_runc(side: Side) -> None:
    """What is below dockerd is runc for whoever looks for runc's containers, where dockerd has it keep them."""
    side.started("box")
    runc = ("runc", "--root", side.dockerd.runtime_root)
    id = side.inspected("box", ".Id")
    side.note("containers", run([*runc, "list", "-q"]).check().text)
    side.note("exec", run([*runc, "exec", id, "echo", "by runc"]).check().text)


@differential
def test_copy(side: Side) -> None:
    side.started("box")
    target = side.dockerd.directory / "copied"
    target.write_text("of the host\n")
    side.docker("cp", target, "box:/tmp/file")
    side.docker("exec", "box", "sh", "-c", "cat /tmp/file; echo of the container > /tmp/file")
    side.docker("cp", "box:/tmp/file", target)
    side.note("file", target.read_text())


@differential
def test_runtime_v1(side: Side) -> None:
    """dockerd 20.10 can ask for containerd's first runtime as well."""
    v1 = ("--runtime", "io.containerd.runtime.v1.linux")
    with side.terminal(*RUN, "--rm", "--interactive", "--tty", *v1, IMAGE, "sh", "-c", TERMINAL_SCRIPT) as terminal:
        use_terminal(terminal)
    side.run("--rm", *v1, IMAGE, "/etc/passwd")
    side.started("box", *v1, "--init", IMAGE, *ENDS)
    side.ready("box")
    side.docker("exec", "box", "sh", "-c", "echo in; exit 2")
    side.docker("pause", "box")
    side.state("box")
    side.docker("unpause", "box")
    side.docker("top", "box", "-o", "pid,args")
    side.docker("stats", "--no-stream", "--format", "{{.PIDs}}", "box")
    side.docker("stop", "box")
    side.state("box")
    side.events("box")

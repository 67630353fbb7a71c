"""What happens to a container under dockerd: its ends, its restarts, its pauses, and what is heard and told of it."""

from __future__ import annotations

from functools import partial

from tests.docker.transcript import ENDS, IMAGE, RUN, Side, differential


@differential
def test_stop_kill_and_start(side: Side) -> None:
    side.started("box", IMAGE, *ENDS)
    side.ready("box")
    side.docker("stop", "box")
    side.state("box")
    side.docker("wait", "box")
    side.docker("start", "box")
    side.docker("kill", "--signal", "WINCH", "box")
    side.docker("restart", "--time", "0", "box")
    side.note("lived before", side.inspected("box", ".State.StartedAt") > side.inspected("box", ".State.FinishedAt"))
    side.docker("rm", "box")
    side.docker("kill", "box")
    side.docker("wait", "box")
    side.docker("kill", "box")
    side.docker("stop", "box")
    side.events("box")


@differential
def test_stop_of_one_that_does_not_listen(side: Side) -> None:
    # The first of a pid namespace gets what it has asked for only.
    side.started("box")
    side.docker("stop", "--time", "1", "box")
    side.state("box")


@differential
def test_logs(side: Side) -> None:
    go = "until [ -e /go{0} ]; do sleep 0.05; done"
    script = f"seq 20000; {go.format(1)}; echo more; {go.format(2)}; exit 5"
    side.started("box", IMAGE, "sh", "-c", script)
    # All of the end of a container's output comes to its log, but dockerd may end `logs --follow` before: so no more
    # is asked of that than what came while the container ran.
    with side.start("logs", "--follow", "box") as logs:
        logs.read_until(b"20000\n")
        side.quietly("exec", "box", "touch", "/go1")
        logs.read_until(b"more\n")
        side.quietly("exec", "box", "touch", "/go2")
        logs.wait()
    side.docker("wait", "box")


@differential
def test_output_before_the_end(side: Side) -> None:
    side.started("box", IMAGE, "sh", "-c", "seq 20000; exit 5")
    side.docker("wait", "box")
    side.note("lines", side.quietly("logs", "box").split() == [str(number) for number in range(1, 20001)])


#: Answers every line, and ends by a signal: dockerd may end a client before it had the last of the output.
ANSWERS = ("sh", "-c", "trap 'exit 6' USR1; while :; do read line && echo got $line; done")


@differential
def test_attach(side: Side) -> None:
    side.started("box", "--interactive", IMAGE, *ANSWERS)
    with side.start("attach", "box") as gone:
        gone.write(b"a line\n")
        gone.read_until(b"got a line\n")
    # That client was killed; the next one is as good.
    with side.start("attach", "box") as client:
        client.write(b"another line\n")
        client.read_until(b"got another line\n")
        side.docker("kill", "--signal", "USR1", "box")
        client.wait()


@differential
def test_attach_to_a_terminal(side: Side) -> None:
    side.started("box", "--interactive", "--tty", IMAGE, *ANSWERS)
    with side.terminal("attach", "box") as terminal:
        terminal.enter("one\n")
        terminal.read_until("got one\r\n")
        terminal.enter("\x10\x11")  # docker's keys to leave it
    side.state("box")
    with side.terminal("attach", "box") as terminal:
        terminal.enter("two\n")
        terminal.read_until("got two\r\n")
        side.docker("kill", "--signal", "USR1", "box")


@differential
def test_restart_on_failure(side: Side) -> None:
    side.started("box", "--restart", "on-failure:2", IMAGE, "sh", "-c", "exit 3")
    side.until(lambda: side.inspected("box", ".RestartCount") == "2", "it is not started again")
    side.wait_for("box", "exited")
    side.state("box")
    side.events("box")


@differential
def test_restart_always(side: Side) -> None:
    side.started("box", "--restart", "always", IMAGE, *ENDS)
    for times in ("1", "2"):
        side.ready("box")
        # Not by docker's kill: it would not be started again then. The exec itself may end with the container.
        side.dockerd.docker("exec", "box", "sh", "-c", "rm /ready; kill -USR1 1")
        side.until(partial(_restarted, side, times), "it is not started again")
    side.wait_for("box", "running")
    side.docker("stop", "--time", "0", "box")
    side.state("box")


def _restarted(side: Side, times: str) -> bool:
    return side.inspected("box", ".RestartCount") == times


@differential
def test_pause(side: Side) -> None:
    side.started("box", IMAGE, *ENDS)
    side.ready("box")
    side.docker("unpause", "box")
    side.docker("pause", "box")
    side.state("box")
    side.docker("pause", "box")
    side.docker("exec", "box", "true")
    side.docker("ps", "--format", "{{.Names}} {{.State}}")
    side.docker("unpause", "box")
    side.docker("exec", "box", "echo", "goes on")
    side.quietly("pause", "box")
    side.docker("kill", "box")
    side.docker("wait", "box")
    side.events("box")


@differential
def test_figures_and_limits(side: Side) -> None:
    command = ("sh", "-c", "sleep 1000 & sleep 1000 & wait")
    side.started("box", "--memory", "64m", "--pids-limit", "20", IMAGE, *command)
    side.until(lambda: len(side.quietly("top", "box").splitlines()) == 4, "three processes")
    side.docker("top", "box", "-o", "pid,args")
    limits = ("cat", "memory/memory.limit_in_bytes", "cpu/cpu.shares", "pids/pids.max")
    side.docker("exec", "--workdir", "/sys/fs/cgroup", "box", *limits)
    side.docker("update", "--memory", "32m", "--memory-swap", "32m", "--cpu-shares", "512", "--pids-limit", "77", "box")
    side.docker("exec", "--workdir", "/sys/fs/cgroup", "box", *limits)
    figures = side.quietly("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.NetIO}} {{.MemUsage}}", "box")
    name, pids, *_, limit = figures.split()
    side.note("figures", (name, pids, limit))


@differential
def test_out_of_memory(side: Side) -> None:
    limit = ("--memory", "16m", "--memory-swap", "16m")
    fill = ("sh", "-c", "x=a; while :; do x=$x$x; done")
    side.run("--name", "box", *limit, IMAGE, *fill)
    side.until(lambda: side.inspected("box", ".State.OOMKilled") == "true", "nobody has heard of it")
    side.state("box")
    # An exec alone: the container goes on.
    side.started("other", *limit, IMAGE, "sleep", "1000")
    side.docker("exec", "other", *fill)
    heard = ("events", f"--since={side.began:.6f}", "--until=0s", "--filter=container=other", "--filter=event=oom")
    side.until(lambda: "oom" in side.quietly(*heard), "nobody has heard of it")
    side.state("other")


@differential
def test_run_in_a_crowd(side: Side) -> None:
    """Several at once, each with a status of its own."""
    names = [f"box{number}" for number in range(4)]
    running = [
        side.start(*RUN, "--rm", "--name", name, IMAGE, "sh", "-c", f"echo {name}; exit {number}")
        for number, name in enumerate(names)
    ]
    for client in running:
        client.wait()

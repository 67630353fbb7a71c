"""wherry task."""

from __future__ import annotations

from wherry.cli import kill
from wherry.cli.main import nested
from wherry.cli.operands import each
from wherry.cli.table import Table, add_listing_flags, ago, print_json, show, size
from wherry.client.containers import Containers, spec
from wherry.client.documents import document, nanoseconds
from wherry.client.run import Task, start_attached
from wherry.client.tasks import Tasks, command_line, exec_of, state_of
from wherry.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session
    from wherry.client.tasks import Process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the commands and their flags."""
    from wherry.cli import exec as exec_command

    parser.description = "Tasks: what containers run. Each is called as its container."
    actions = nested(parser)
    listing = actions.add_parser("ls", help="list tasks", description="List tasks.")
    add_listing_flags(listing, quiet="names")
    listing.set_defaults(handler=_list)
    starting = actions.add_parser("start", help="run a container that does not run")
    starting.description = (
        "Run a container that does not run, with the files it has. The exit status is its command's; with --detach, "
        "the task stays until it is removed."
    )
    starting.add_argument("container", metavar="CONTAINER")
    starting.add_argument("-d", "--detach", action="store_true", help="do not wait for it, nor show its output")
    starting.add_argument("-i", "--interactive", action="store_true", help="connect standard input")
    starting.set_defaults(handler=_start)
    killing = actions.add_parser("kill", help="send a signal to tasks")
    kill.add_arguments(killing)
    killing.set_defaults(handler=kill.run)
    executing = actions.add_parser("exec", help="run a command in a running task")
    exec_command.add_arguments(executing)
    executing.usage = "wherry task exec [flags] CONTAINER COMMAND [ARG ...]"
    executing.set_defaults(handler=exec_command.run)
    showing = actions.add_parser("ps", help="list the processes of a task")
    showing.description = "List the processes of a task, by the pids they have on the host."
    showing.add_argument("container", metavar="CONTAINER")
    add_listing_flags(showing, quiet="pids")
    showing.set_defaults(handler=_processes)
    for name, handler, what in (
        ("pause", _pause, "freeze the processes of tasks"),
        ("resume", _resume, "let paused tasks go on"),
    ):
        action = actions.add_parser(name, help=what, description=what.capitalize() + ".")
        action.add_argument("containers", nargs="+", metavar="CONTAINER")
        action.set_defaults(handler=handler)
    removing = actions.add_parser("rm", help="remove tasks that have ended")
    removing.description = "Remove tasks that have ended; their containers stay. With --force, kill those that run."
    removing.add_argument("containers", nargs="+", metavar="CONTAINER")
    removing.add_argument("-f", "--force", action="store_true", help="kill what runs")
    removing.set_defaults(handler=_remove)
    measuring = actions.add_parser("metrics", help="show what a task uses")
    measuring.description = "Show the figures of a task's cgroup: those that are not 0, or all of them as JSON."
    measuring.add_argument("container", metavar="CONTAINER")
    measuring.add_argument("--json", action="store_true", help="print a JSON object, for programs")
    measuring.set_defaults(handler=_metrics)


def run(options: argparse.Namespace, session: Session) -> int:
    """Run one of the commands."""
    status: int = options.handler(options, session)
    return status


def _list(options: argparse.Namespace, session: Session) -> int:
    processes = sorted(session.run(Tasks(session.client).list()), key=lambda process: process.id)
    return show(options, processes, lambda process: process.id, document, ("TASK", "PID", "STATUS"), _row, right=(1,))


def _row(process: Process) -> list[str]:
    state = state_of(process)
    if state != "stopped":
        return [process.id, str(process.pid), state]
    when = ago(nanoseconds(process.exited_at))
    return [process.id, str(process.pid), f"exited {process.exit_status}" + (f", {when}" if when else "")]


def _start(options: argparse.Namespace, session: Session) -> int:
    client = session.client
    container = session.run(Containers(client).get(options.container))
    terminal = bool(spec(container).get("process", {}).get("terminal"))
    if terminal and options.detach:
        raise InvalidArgument(f'task start --detach: container "{container.id}" wants a terminal, and would have none')
    prepared = session.run(Tasks(client).prepare(container))
    if options.detach:
        task = session.run(Task.create(client, prepared, "", "", "", False))
        return _started(task, session)
    from wherry.client.attached import Attached

    with Attached(session.channel, client, container.id, "", stdin=options.interactive, terminal=terminal) as attached:
        fifos = attached.fifos
        task = session.run(Task.create(client, prepared, fifos.stdin, fifos.stdout, fifos.stderr, terminal))
        try:
            attached.created()
            status = session.run(start_attached(task, "", attached.started))
        except BaseException:
            session.run(task.end())
            raise
        attached.drain()
        session.run(task.delete())
    return status


def _started(task: Task, session: Session) -> int:
    try:
        session.run(task.start())
    except BaseException:
        session.run(task.end())
        raise
    return 0


def _processes(options: argparse.Namespace, session: Session) -> int:
    processes = [
        {"pid": process.pid, "exec_id": exec_of(process), "command": command_line(process.pid)}
        for process in session.run(Tasks(session.client).pids(options.container))
    ]

    def row(process: dict[str, Any]) -> list[str]:
        return [str(process["pid"]), process["exec_id"], " ".join(process["command"])]

    headings = ("PID", "EXEC", "COMMAND")
    return show(options, processes, lambda each: str(each["pid"]), lambda each: each, headings, row, right=(0,))


def _pause(options: argparse.Namespace, session: Session) -> int:
    tasks = Tasks(session.client)
    return each(options.containers, lambda name: session.run(tasks.pause(name)))


def _resume(options: argparse.Namespace, session: Session) -> int:
    tasks = Tasks(session.client)
    return each(options.containers, lambda name: session.run(tasks.resume(name)))


def _remove(options: argparse.Namespace, session: Session) -> int:
    tasks = Tasks(session.client)

    def remove(name: str) -> None:
        state = session.run(tasks.state(name))
        if state in ("created", "stopped"):
            session.run(tasks.task(name).delete())
        elif options.force:
            session.run(tasks.end(name))
        else:
            raise FailedPrecondition(f'task "{name}" is {state}: kill it first, or remove it with --force')
        print(name)

    return each(options.containers, remove)


def _metrics(options: argparse.Namespace, session: Session) -> int:
    metric = document(session.run(Tasks(session.client).metrics(options.container)))
    if options.json:
        print_json(metric)
        return 0
    table = Table("FIGURE", "VALUE", "", right=(1,))
    data = metric["data"] or {}
    for name, value in _figures("", data.get("value")):
        table.add(name, str(value), _readable(name, value))
    table.print()
    return 0


def _figures(path: str, value: Any) -> list[tuple[str, Any]]:
    """Return the figures of a tree by their paths, without those that are 0 or empty."""
    if isinstance(value, dict):
        return [each for key, below in value.items() for each in _figures(f"{path}.{key}" if path else key, below)]
    if isinstance(value, list):
        return [each for at, below in enumerate(value) for each in _figures(f"{path}[{at}]", below)]
    return [(path, value)] if value else []


def _readable(name: str, value: Any) -> str:
    """Return a great number of bytes or nanoseconds as people read it."""
    if not isinstance(value, int) or value < 1024:
        return " "
    if name.startswith("memory.") and not name.endswith(("failcnt", "fault", "pg_in", "pg_out")):
        # A limit that is none is the greatest multiple of a page.
        return size(value) if value < 1 << 60 else "no limit"
    if name.startswith("cpu.usage"):
        return f"{value / (1e6 if name.endswith('_usec') else 1e9):.3f} s"
    return " "

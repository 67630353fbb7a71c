"""wherry ps."""

from __future__ import annotations

from wherry.cli.table import Table, add_listing_flags, ago, print_json, shortened
from wherry.client.containers import Containers, command
from wherry.client.documents import nanoseconds, rfc3339
from wherry.client.tasks import Tasks, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.api.services.containers.v1.containers_pb2 import Container
    from wherry.api.types.task.task_pb2 import Process
    from wherry.cli.main import Session

#: Of a command, in the table.
_COMMAND = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "List the containers that run; with --all, also those that do not."
    parser.add_argument("-a", "--all", action="store_true", help="list containers that do not run, too")
    add_listing_flags(parser, quiet="names")


def run(options: argparse.Namespace, session: Session) -> int:
    """List containers."""
    client = session.client
    containers = session.run(Containers(client).list())
    processes = {process.id: process for process in session.run(Tasks(client).list())}
    rows = [
        (container, processes.get(container.id))
        for container in containers
        if options.all or _runs(processes.get(container.id))
    ]
    rows.sort(key=lambda row: nanoseconds(row[0].created_at) or 0, reverse=True)
    if options.json:
        print_json([_document(container, process) for container, process in rows])
        return 0
    if options.quiet:
        for container, _process in rows:
            print(container.id)
        return 0
    table = Table("CONTAINER", "IMAGE", "COMMAND", "CREATED", "STATUS", "PID", right=(5,))
    for container, process in rows:
        pid = str(process.pid) if process is not None and process.pid and _runs(process) else ""
        words = shortened(" ".join(command(container)), _COMMAND)
        created = ago(nanoseconds(container.created_at))
        table.add(container.id, container.image, words, created, _status(process), pid)
    table.print()
    return 0


def _runs(process: Process | None) -> bool:
    return process is not None and state_of(process) != "stopped"


def _status(process: Process | None) -> str:
    if process is None:
        return "no task"
    state = state_of(process)
    if state != "stopped":
        return state
    when = ago(nanoseconds(process.exited_at))
    return f"exited {process.exit_status}" + (f", {when}" if when else "")


def _document(container: Container, process: Process | None) -> dict[str, Any]:
    stopped = process is not None and state_of(process) == "stopped"
    return {
        "id": container.id,
        "image": container.image,
        "command": command(container),
        "created_at": rfc3339(container.created_at),
        "status": state_of(process) if process is not None else None,
        "pid": process.pid if process is not None and not stopped else None,
        "exit_status": process.exit_status if process is not None and stopped else None,
        "exited_at": rfc3339(process.exited_at) if process is not None and stopped else None,
        "runtime": container.runtime.name,
        "snapshotter": container.snapshotter,
        "labels": dict(sorted(container.labels.items())),
    }

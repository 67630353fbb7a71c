"""wherry exec."""

from __future__ import annotations

import os

from wherry.cli.run import environment, own_failure
from wherry.client.exec import exec_process
from wherry.client.run import Task, start_attached
from wherry.errors import Error, InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from wherry.cli.main import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = "Run a command in a running container. The exit status is the command's."
    parser.usage = "wherry exec [flags] CONTAINER COMMAND [ARG ...]"
    add = parser.add_argument
    add("container", metavar="CONTAINER")
    add("args", nargs="...", metavar="COMMAND")
    add("-t", "--tty", action="store_true", help="give the command a terminal")
    add("-i", "--interactive", action="store_true", help="connect standard input")
    add("-d", "--detach", action="store_true", help="do not wait for the command, nor show its output")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help="set a variable, or pass ours on")
    add("-u", "--user", default="", metavar="USER[:GROUP]", help="run as a user of the container's, or a number")
    add("-w", "--cwd", "--workdir", default="", metavar="DIR", help="the working directory")


def run(options: argparse.Namespace, session: Session) -> int:
    """Run the command."""
    if not options.args:
        raise InvalidArgument("exec: name the command to run")
    process = session.run(
        exec_process(
            session.client,
            options.container,
            options.args,
            terminal=options.tty,
            env=environment(options.env, []),
            cwd=options.cwd,
            user=options.user,
        )
    )
    exec_id = f"exec-{os.urandom(6).hex()}"
    task = Task(session.client, options.container)
    try:
        if options.detach:
            session.run(_detached(task, exec_id, process))
            return 0
        return _attached(options, session, task, exec_id, process)
    except NotFound:
        raise
    except Error as error:
        return own_failure(error)


async def _detached(task: Task, exec_id: str, process: dict[str, Any]) -> None:
    await task.exec(exec_id, process, "", "", "", False)
    try:
        await task.start(exec_id)
    except BaseException:
        await task.delete(exec_id)
        raise


def _attached(options: argparse.Namespace, session: Session, task: Task, exec_id: str, process: dict[str, Any]) -> int:
    from wherry.client.attached import Attached

    with Attached(
        session.channel, session.client, task.id, exec_id, stdin=options.interactive, terminal=options.tty
    ) as attached:
        fifos = attached.fifos
        session.run(task.exec(exec_id, process, fifos.stdin, fifos.stdout, fifos.stderr, options.tty))
        try:
            status = session.run(start_attached(task, exec_id, attached.started))
            attached.drain()
        finally:
            session.run(task.delete(exec_id))
    return status

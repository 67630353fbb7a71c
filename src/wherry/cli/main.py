"""The wherry command: its global flags, its commands, its errors.

A command is a module of this package with

* ``add_arguments(parser)``, which also sets ``parser.description``, and
* ``run(options, session) -> int``, whose result is the exit status.

Only the module of the command that was given is imported: starting is most of what a short command costs.
"""

from __future__ import annotations

import os
import sys

from wherry.protobuf import import_only_the_core

import_only_the_core()

from wherry.cli.flags import FlagParser, Unusual  # noqa: E402
from wherry.errors import Error  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any, NoReturn, TypeVar

    from wherry.client.client import Client
    from wherry.client.connection import BlockingChannel, Channel

    T = TypeVar("T")

#: Command: its module and what it does, in the order of the help.
COMMANDS = {
    "run": ("wherry.cli.run", "run a command in a new container"),
    "exec": ("wherry.cli.exec", "run a command in a running container"),
    "ps": ("wherry.cli.ps", "list containers and what they run"),
    "kill": ("wherry.cli.kill", "send a signal to a container"),
    "rm": ("wherry.cli.rm", "remove containers"),
    "pull": ("wherry.cli.image_pull", "pull an image from a registry"),
    "push": ("wherry.cli.image_push", "push an image to a registry"),
    "login": ("wherry.cli.login", "log in to a registry"),
    "logout": ("wherry.cli.logout", "log out of a registry"),
    "image": ("wherry.cli.image", "list, import, export, convert, mount, remove images"),
    "container": ("wherry.cli.container", "list, inspect, remove containers"),
    "task": ("wherry.cli.task", "start, kill, pause, resume, measure what runs"),
    "namespace": ("wherry.cli.namespace", "list, create, label, remove namespaces"),
    "content": ("wherry.cli.content", "list, get, ingest, remove blobs"),
    "snapshot": ("wherry.cli.snapshot", "list, remove, measure snapshots"),
    "sandbox": ("wherry.cli.sandbox", "list, inspect, remove sandboxes"),
    "prune": ("wherry.cli.prune", "remove what nothing refers to any more, now"),
    "events": ("wherry.cli.events", "show events as they happen"),
    "version": ("wherry.cli.version", "show the versions of client and daemon"),
    "plugin": ("wherry.cli.plugin", "list the daemon's parts"),
    "setup": ("wherry.cli.setup", "link the shims and install the systemd unit"),
}

_WITH_VALUE = {"-a": "address", "--address": "address", "-n": "namespace", "--namespace": "namespace"}

#: As docker: a failure of our own, not the container's.
OWN_FAILURE = 125


class Session:
    """One command's dealings with a daemon: the connection is made when it is first needed."""

    def __init__(self, address: str | None, namespace: str | None) -> None:
        self._address = address
        self._namespace = namespace
        self._channel: BlockingChannel | None = None
        self._client: Client | None = None

    @property
    def address(self) -> str:
        """The daemon's gRPC socket."""
        from wherry.client.connection import find_address

        return find_address(self._address, os.environ)

    @property
    def namespace(self) -> str:
        """The namespace to work in."""
        from wherry.client.connection import find_namespace

        return find_namespace(self._namespace, os.environ)

    @property
    def channel(self) -> BlockingChannel:
        """The connection. Unavailable if no daemon answers."""
        if self._channel is None:
            from wherry.client.connection import connect

            self._channel = connect(self.address)
        return self._channel

    @property
    def client(self) -> Client:
        """A client of the daemon and the namespace."""
        if self._client is None:
            from wherry.client.client import Client

            self._client = Client(self.channel, self.namespace)
        return self._client

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the client's to its end."""
        return self.channel.run(coroutine)

    def run_in_loop(self, work: Callable[[Channel], Coroutine[Any, Any, T]]) -> T:
        """Run what needs an event loop, with a channel for it. An interrupt cancels the coroutine first."""
        if self.channel.suspends:
            # gRPC's Python does not stand two loops in one process.
            return self.channel.run(work(self.channel))
        import asyncio

        from wherry.client.connection import connect_in_loop

        async def run() -> T:
            channel = await connect_in_loop(self.address)
            try:
                return await work(channel)
            finally:
                await channel.close()

        return asyncio.run(run())


def entry() -> NoReturn:
    """Be the installed command: run the command line and exit with its status.

    Without taking the interpreter apart, which is work for nobody, and some milliseconds of everyone's.
    """
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> int:
    """Run the command line and return its exit status."""
    flags, rest = _global_flags(sys.argv[1:])
    if not rest:
        _help(sys.stderr)
        return 2
    name, *arguments = rest
    if name not in COMMANDS:
        return _unknown(name)
    session = Session(flags.get("address"), flags.get("namespace"))
    try:
        status = _run(name, arguments, session)
        sys.stdout.flush()
        return status
    except Error as error:
        print(f"wherry: {error}", file=sys.stderr)
        return OWN_FAILURE if name in ("run", "exec") else 1
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        print(f"wherry: {error.filename + ': ' if error.filename else ''}{text}", file=sys.stderr)
        return OWN_FAILURE if name in ("run", "exec") else 1


def _run(name: str, arguments: Sequence[str], session: Session) -> int:
    module = COMMANDS[name][0]
    __import__(module)
    command: Any = sys.modules[module]
    status: int = command.run(_parsed(command, name, arguments), session)
    return status


def _parsed(command: Any, name: str, arguments: Sequence[str]) -> Any:
    flags = FlagParser()
    try:
        command.add_arguments(flags)
        return flags.parse(arguments)
    except Unusual:
        import argparse

        parser = argparse.ArgumentParser(prog=f"wherry {name}", allow_abbrev=False)
        command.add_arguments(parser)
        return parser.parse_args(arguments)


def _global_flags(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take the flags before the command, by hand: argparse would have to know every command for it."""
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        word, equals, value = rest.pop(0).partition("=")
        if word in ("-h", "--help"):
            _help(sys.stdout)
            sys.exit(0)
        if word in ("-v", "--version"):
            import wherry

            print(f"wherry {wherry.__version__}")
            sys.exit(0)
        if word not in _WITH_VALUE:
            _usage(f"unknown flag {word}: global flags are --address, --namespace, --version and --help")
        if not equals:
            if not rest:
                _usage(f"{word} needs a value")
            value = rest.pop(0)
        flags[_WITH_VALUE[word]] = value
    return flags, rest


def _usage(problem: str) -> NoReturn:
    print(f"wherry: {problem}", file=sys.stderr)
    sys.exit(2)


def _unknown(name: str) -> int:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f": did you mean {close[0]!r}?" if close else ": `wherry --help` lists the commands"
    print(f"wherry: no command {name!r}{hint}", file=sys.stderr)
    return 2


def _help(file: Any) -> None:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: wherry [--address SOCKET] [--namespace NAMESPACE] COMMAND ...",
        "",
        "Containers from Python, wire-compatible with containerd.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {what}" for name, (_module, what) in COMMANDS.items()),
        "",
        "flags, before the command:",
        "  -a, --address SOCKET     the daemon's socket (WHERRY_ADDRESS, CONTAINERD_ADDRESS;",
        "                           default: /run/wherry/wherry.sock)",
        "  -n, --namespace NAME     the namespace (WHERRY_NAMESPACE, CONTAINERD_NAMESPACE; default: default)",
        "  -v, --version            show wherry's version",
        "  -h, --help               show this",
        "",
        "`wherry COMMAND --help` tells about a command.",
    ]
    print("\n".join(lines), file=file)


def nested(parser: argparse.ArgumentParser, name: str = "action") -> Any:
    """Return a place for a command's own commands, one of which must be given."""
    return parser.add_subparsers(dest=name, metavar="ACTION", required=True)


if __name__ == "__main__":
    entry()

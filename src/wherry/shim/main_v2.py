"""containerd-shim-wherry-v2: the command line of runtime v2 and v3 shims.

    containerd-shim-wherry-v2 -namespace NS -id ID -address GRPC [-publish-binary PATH] [-bundle DIR] [-debug]
                              start|delete
    containerd-shim-wherry-v2 -v | -info

`start` forks the server out of this very process, so that no second interpreter is started; `delete` imports no event
loop. Nothing is ever written on descriptor 2: daemons read both streams as one.
"""

from __future__ import annotations

import os
import sys

from wherry.linux import own_executable
from wherry.protobuf import import_only_the_core
from wherry.startup import forgo_fork_handlers, forgo_tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

NAME = "containerd-shim-wherry-v2"

_WITH_VALUE = ("namespace", "id", "address", "publish-binary", "bundle", "socket")
_SWITCHES = ("debug", "v", "info")


class Flags:
    """The flags of one command line, in Go's form: one dash or two, values behind a blank or an equals sign."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.values: dict[str, str] = {}
        self.switches: set[str] = set()
        self.action = ""
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            if not word.startswith("-") or word == "-":
                self.action = word
                break
            name, equals, value = word.lstrip("-").partition("=")
            if name in _SWITCHES:
                if value.lower() not in ("false", "0", "f"):
                    self.switches.add(name)
            elif name in _WITH_VALUE:
                if not equals and not rest:
                    usage(f"flag needs an argument: -{name}")
                self.values[name] = value if equals else rest.pop(0)
            else:
                usage(f"flag provided but not defined: -{name}")

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")


def usage(problem: str) -> NoReturn:
    """Exit as Go's flag package does, with status 2."""
    sys.stderr.write(
        f"{problem}\nUsage of {NAME}:\n"
        "  -namespace NS -id ID -address GRPC [-publish-binary PATH] [-bundle DIR] [-debug] start|delete\n"
        "  -v     show the version\n"
        "  -info  read runtime options on standard input and tell about the shim as containerd.types.RuntimeInfo\n"
    )
    sys.exit(2)


def main() -> int:
    """Run the command and return its exit status."""
    import_only_the_core()
    forgo_tls()
    forgo_fork_handlers()
    flags = Flags(sys.argv[1:])
    if "v" in flags.switches:
        import wherry

        print(f"{NAME}:\n  Version:  {wherry.__version__}")  # noqa: T201
        return 0
    if "info" in flags.switches:
        from wherry.shim.info import print_info

        print_info()
        return 0
    if not flags["namespace"]:
        sys.stderr.write("shim namespace cannot be empty\n")
        return 1
    if flags.action == "start":
        own_executable.protect("from wherry.shim.main_v2 import main; sys.exit(main())")
        from wherry.shim.start import start

        sys.stdout.write(start(flags))
        sys.stdout.flush()
        return 0
    if flags.action == "delete":
        from wherry.shim.delete import delete

        sys.stdout.buffer.write(delete(flags["bundle"] or os.getcwd(), flags["namespace"], flags["id"]))
        sys.stdout.flush()
        return 0
    usage(f"unknown command {flags.action!r}: start or delete")


if __name__ == "__main__":
    sys.exit(main())

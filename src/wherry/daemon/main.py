"""The wherryd command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import wherry
from wherry.errors import Error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run wherryd and return its exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    options = parser.parse_args([_single_dash_address(argument) for argument in arguments])
    try:
        if options.command == "publish":
            # A shim waits for this: no daemon, no gRPC unless it is containerd's socket.
            from wherry.daemon.publish import publish

            publish(options.address or "", options.topic, options.namespace, sys.stdin.buffer.read())
            return 0
        return _configured(options)
    except Error as error:
        print(f"wherryd: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _configured(options: argparse.Namespace) -> int:
    from wherry.daemon import config

    if options.command == "config" and options.what == "default":
        sys.stdout.write(config.default_text())
        return 0
    keys = ("config", "root", "state", "address", "log_level")
    loaded = config.load({key: getattr(options, key, None) for key in keys}, os.environ)
    if options.command == "config":
        import tomli_w

        sys.stdout.write(tomli_w.dumps(loaded.to_toml()))
        return 0
    from wherry.daemon.server import run

    run(loaded)
    return 0


def _single_dash_address(argument: str) -> str:
    # The shims of runtime v1 were written for Go's flags, which take either.
    return "-" + argument if argument in ("-address", "-topic", "-namespace") else argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherryd",
        description="The daemon of wherry: containerd's gRPC API on a unix socket, a shim for every container.",
        epilog="Without a command it serves until SIGTERM; containers go on without it.",
    )
    parser.add_argument("--version", action="version", version=f"wherryd {wherry.__version__}")
    parser.add_argument("--config", metavar="FILE", help="configuration file (default: /etc/wherry/config.toml)")
    parser.add_argument("--root", metavar="DIR", help="what must last (default: /var/lib/wherry)")
    parser.add_argument("--state", metavar="DIR", help="what may go with a reboot (default: /run/wherry)")
    parser.add_argument("--address", metavar="SOCKET", help="the gRPC socket (default: wherry.sock in --state)")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error (default: info)")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    configuration = commands.add_parser("config", help="print the configuration")
    configuration.add_argument("what", choices=("default", "dump"), help="the defaults, or what would be in force")
    publish = commands.add_parser("publish", help="publish an event read from standard input (shims run this)")
    publish.add_argument("--topic", required=True)
    publish.add_argument("--namespace", required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())

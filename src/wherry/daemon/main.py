"""The wherryd command."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

#: Flags that take no value.
_SWITCHES = ("-h", "--help", "--version", "--no-shim", "--ksm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run wherryd and return its exit status: 0, 1 after an error, 2 for a command line that cannot be."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if _command(arguments) == "publish":
        # A shim waits for this: no parser, no daemon.
        from wherry.daemon.publish import main as publish

        return publish(arguments)
    from wherry.errors import Error

    options = _parser().parse_args(arguments)
    try:
        return _configured(options)
    except Error as error:
        # The kind is for clients: who sits at a terminal needs the reason alone.
        _complain(error.message.removesuffix(f": {error.kind}"))
    except OSError as error:
        name = f": {error.filename}" if error.filename is not None else ""
        _complain(f"{(error.strerror or str(error)).lower()}{name}")
    except KeyboardInterrupt:
        return 130
    return 1


def _complain(text: str) -> None:
    sys.stderr.write(f"wherryd: {text}\n")


def _command(arguments: Sequence[str]) -> str:
    """Return the first argument that is neither a flag nor a flag's value."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            return word
        if word not in _SWITCHES and "=" not in word:
            next(words, None)
    return ""


def _configured(options: argparse.Namespace) -> int:
    import os

    from wherry.daemon import config

    if options.command == "config" and options.what == "default":
        sys.stdout.write(config.default_text())
        return 0
    keys = ("config", "root", "state", "address", "log_level", "log_format", "no_shim", "ksm")
    loaded = config.load({key: getattr(options, key) for key in keys}, os.environ)
    if options.command == "config":
        import tomli_w

        sys.stdout.write(tomli_w.dumps(loaded.to_toml()))
        return 0
    from wherry.daemon.server import run

    run(loaded)
    return 0


def _parser() -> argparse.ArgumentParser:
    import argparse

    import wherry
    from wherry.daemon.config import DEFAULT_FILE, LOG_FORMATS, LOG_LEVELS, Config

    parser = argparse.ArgumentParser(
        prog="wherryd",
        description="The daemon of wherry: containerd's gRPC API on a unix socket, a shim for every container.",
        epilog="Without a command it serves until SIGTERM; containers go on without it. For every flag there is a "
        "variable (--log-level: WHERRY_LOG_LEVEL) and a key of the configuration file; the flag comes first.",
        allow_abbrev=False,
    )
    default = Config()
    parser.add_argument("--version", action="version", version=f"wherryd {wherry.__version__}")
    parser.add_argument("--config", metavar="FILE", help=f"configuration file (default: {DEFAULT_FILE}, if it exists)")
    parser.add_argument("--root", metavar="DIR", help=f"what must last (default: {default.root})")
    parser.add_argument("--state", metavar="DIR", help=f"what may go with a reboot (default: {default.state})")
    parser.add_argument("--address", metavar="SOCKET", help="the gRPC socket (default: wherry.sock in --state)")
    parser.add_argument("--log-level", metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)} (default: {default.log_level})")
    parser.add_argument(
        "--log-format", metavar="FORMAT", help=f"{' or '.join(LOG_FORMATS)} (default: {default.log_format})"
    )
    parser.add_argument(
        "--no-shim",
        action="store_const",
        const="true",
        help="be the shim of containers in this process: they end with the daemon",
    )
    parser.add_argument(
        "--ksm",
        action="store_const",
        const="true",
        help="let the kernel's KSM, if it runs, keep equal pages of shims once",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    configuration = commands.add_parser("config", help="print the configuration")
    configuration.add_argument("what", choices=("default", "dump"), help="the defaults, or what would be in force")
    # For the list of commands only: see main().
    commands.add_parser("publish", help="publish an event read from standard input, for shims", add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())

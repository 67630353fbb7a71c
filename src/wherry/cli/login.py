"""wherry login."""

from __future__ import annotations

import os
import sys

from wherry.errors import Error, InvalidArgument, from_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from wherry.cli.main import Session
    from wherry.client.credentials import Credentials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell the flags."""
    parser.description = (
        "Log in to a registry, Docker Hub if none is named: see whether it takes the password, and keep that where "
        "Docker does, in config.json below $DOCKER_CONFIG or ~/.docker or with the credential helper named there."
    )
    add = parser.add_argument
    add("host", nargs="?", default="", metavar="REGISTRY", help="its host and port, as in registry.example.org:5000")
    add("-u", "--username", default="", metavar="USER", help="the user (default: ask)")
    add(
        "-p",
        "--password",
        default=None,
        metavar="PASSWORD",
        help="the password, for everybody to see who lists processes",
    )
    add("--password-stdin", action="store_true", help="read the password from standard input")
    add("--plain-http", action="store_true", help="speak HTTP without TLS, as with registries on this machine")
    add(
        "--hosts-dir",
        default="",
        metavar="DIR",
        help="find hosts.toml files here (default: /etc/containerd/certs.d)",
    )
    add("--skip-check", action="store_true", help="keep the password without asking the registry about it")


def run(options: argparse.Namespace, session: Session) -> int:
    """Log in."""
    from wherry.client import credentials

    host = host_of(options.host)
    if options.password is not None and options.password_stdin:
        raise InvalidArgument("--password and --password-stdin: either may be given, not both")
    if options.password is not None:
        print("wherry: --password is not safe on a machine that others use: --password-stdin is", file=sys.stderr)
    given = _ask(options, host)
    if not options.skip_check:
        from wherry.client.login import check

        try:
            check(host, given, plain_http=options.plain_http, hosts_dir=options.hosts_dir)
        except Error as error:
            raise from_status(error.code, f"login to {host or 'docker.io'}: {error.message}") from None
    where, readable = credentials.log_in(host, given, os.environ)
    if readable:
        print(
            f"wherry: the password is kept unencrypted in {where}: a credential helper would encrypt it "
            "(https://docs.docker.com/go/credential-store/)",
            file=sys.stderr,
        )
    print("Login Succeeded")
    return 0


def host_of(text: str) -> str:
    """Return the host of what may be an address, as people copy them."""
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    if host in ("index.docker.io/v1", "index.docker.io/v2"):
        host = "docker.io"
    if "/" in host or host.startswith("-") or (text and not host):
        raise InvalidArgument(f"registry {text!r}: a host, or HOST:PORT, is expected")
    return host


def _ask(options: argparse.Namespace, host: str) -> Credentials:
    from wherry.client.credentials import Credentials, stored_user

    username = options.username
    if not username:
        if not sys.stdin.isatty() or options.password_stdin:
            raise InvalidArgument("login: standard input is no terminal to ask at; give --username")
        before = stored_user(host, os.environ)
        print(f"Username{f' ({before})' if before else ''}: ", end="", file=sys.stderr, flush=True)
        username = sys.stdin.readline().strip() or before
        if not username:
            raise InvalidArgument("login: no username was given")
    password = options.password
    if options.password_stdin:
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    elif password is None:
        if not sys.stdin.isatty():
            raise InvalidArgument("login: standard input is no terminal to ask at; give --password-stdin")
        from getpass import getpass

        password = getpass("Password: ")
    if not password:
        raise InvalidArgument("login: no password was given")
    return Credentials(username, password)

"""wherry-shim: the command line of runtime v1 shims, which containerd up to 1.7 starts.

    wherry-shim -namespace NS -workdir DIR -address GRPC -containerd-binary PATH
                [-runtime-root DIR] [-systemd-cgroup] [-criu PATH] [-socket PATH] [-debug]

The listening socket is inherited as descriptor 3, or made at -socket. The bundle is the working directory.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

from wherry.linux import own_executable
from wherry.protobuf import import_only_the_core
from wherry.startup import forgo_fork_handlers, forgo_tls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_WITH_VALUE = ("namespace", "workdir", "address", "containerd-binary", "runtime-root", "criu", "criu-path", "socket")
_SWITCHES = ("systemd-cgroup", "debug", "v")

#: Where the daemon puts the listening socket.
_LISTENER = 3


def _usage(problem: str) -> NoReturn:
    sys.stderr.write(f"{problem}\n{__doc__}")
    sys.exit(2)


def _flags(arguments: list[str]) -> tuple[dict[str, str], set[str]]:
    values: dict[str, str] = {}
    switches: set[str] = set()
    while arguments:
        word = arguments.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            _usage(f"unexpected argument: {word}")
        elif name in _SWITCHES:
            if value.lower() not in ("false", "0", "f"):
                switches.add(name)
        elif name in _WITH_VALUE:
            if not equals and not arguments:
                _usage(f"flag needs an argument: -{name}")
            values[name] = value if equals else arguments.pop(0)
        else:
            _usage(f"flag provided but not defined: -{name}")
    return values, switches


def main() -> int:
    """Be a shim of runtime v1 until it is killed."""
    import_only_the_core()
    forgo_tls()
    forgo_fork_handlers()
    values, switches = _flags(sys.argv[1:])
    if "v" in switches:
        import wherry

        print(f"wherry-shim:\n  Version:  {wherry.__version__}")  # noqa: T201
        return 0
    if not values.get("namespace"):
        _usage("-namespace is required")
    own_executable.protect("from wherry.shim.main_v1 import main; sys.exit(main())")
    from wherry.api import shim_socket
    from wherry.shim.log import log_to
    from wherry.shim.server import Settings, serve

    if values.get("socket"):
        sock = shim_socket.listen(values["socket"])
    else:
        try:
            sock = socket.socket(fileno=_LISTENER)
        except OSError:
            _usage(f"descriptor {_LISTENER} is no socket, and -socket was not given")
    sock.set_inheritable(False)
    log = _open_logs(values.get("workdir", ""))
    log_to(log, logging.DEBUG if "debug" in switches else logging.INFO)
    settings = Settings(
        values["namespace"],
        values.get("address", ""),
        "",
        values.get("containerd-binary", ""),
        version=1,
        runtime_root=values.get("runtime-root", ""),
        systemd_cgroup="systemd-cgroup" in switches,
        criu=values.get("criu", "") or values.get("criu-path", ""),
        debug="debug" in switches,
    )
    serve(sock, settings)
    return 0


def _open_logs(work: str) -> int:
    """Open the FIFOs that the daemon reads; the log goes to the second, tracebacks too. Standard error without them."""
    try:
        os.close(os.open(os.path.join(work, "shim.stdout.log"), os.O_RDWR | os.O_NONBLOCK))
        fd = os.open(os.path.join(work, "shim.stderr.log"), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return 2
    os.dup2(fd, 2)
    return fd


if __name__ == "__main__":
    sys.exit(main())

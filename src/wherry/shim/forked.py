"""The shim as the zygote forks it for wherryd."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from wherry.shim.log import log_to
from wherry.shim.rehearsal import rehearse
from wherry.shim.server import Settings, serve


def main(arguments: dict[str, Any], fds: list[int]) -> None:
    """Be a shim: `fds` are its listening socket and its log; `arguments` those of Settings, and its bundle."""
    listener, log = fds
    os.chdir(arguments.pop("bundle"))
    # The bundle's `log` FIFO, which the daemon reads: tracebacks go there as well.
    os.dup2(log, 2)
    os.close(log)
    settings = Settings(**arguments)
    log_to(2, logging.DEBUG if settings.debug else logging.INFO)
    serve(socket.socket(fileno=listener), settings)


#: Called in the child that the zygote keeps ready: what a first call would cost has been paid by then.
main.warm = rehearse  # type: ignore[attr-defined]

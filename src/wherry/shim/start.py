"""`start`: make the socket, fork the server, tell where it listens."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys

from wherry.api import shim_socket
from wherry.linux import process
from wherry.linux.cgroup import join
from wherry.shim import bootstrap

NAME = "containerd-shim-wherry-v2"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from wherry.shim.main_v2 import Flags


def start(flags: Flags) -> str:
    """Start the shim of a bundle, or find the one of its group; return what `start` prints."""
    told = bootstrap.read(_standard_input(), flags["id"], "MAX_SHIM_VERSION" in os.environ)
    bundle = os.getcwd()
    daemon = flags["address"]
    path = shim_socket.path_for(daemon, flags["namespace"], shim_socket.group_of(bundle, flags["id"]))
    unix = f"unix://{path}"
    if not shim_socket.answers(path):
        sock = shim_socket.listen(path)
        pid = os.fork()
        if pid == 0:
            _serve(sock, flags)
        sock.close()
        try:
            process.adjust_oom_score(pid, process.oom_score() + 1)
        except OSError:
            pass  # less than we have may not be set; the container runs all the same
        if told.shim_cgroup:
            _place(pid, told.shim_cgroup, path)
    with open(os.path.join(bundle, "address"), "w") as file:
        file.write(unix)
    return told.answer(unix)


def _place(pid: int, cgroup: str, path: str) -> None:
    """Put the server into a cgroup; end it, and this program, if that fails."""
    try:
        join(cgroup, pid)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.unlink(path)
        sys.exit(f"{NAME}: failed to join cgroup {cgroup}: open {error.filename}: {(error.strerror or '').lower()}")


def _standard_input() -> bytes:
    """Return what the daemon wrote, which ends with its end: but a terminal, or a pipe kept open, is nothing."""
    if sys.stdin is None or sys.stdin.isatty():
        return b""
    if not select.select([0], [], [], 0.5)[0]:
        return b""
    return sys.stdin.buffer.read()


def _serve(sock: socket.socket, flags: Flags) -> NoReturn:
    """Be the server: a session of our own, no descriptor of the daemon's, the log on the bundle's FIFO."""
    status = 1
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        log = _log_fifo()
        if log >= 0:
            os.dup2(log, 2)
        listener = os.dup2(sock.fileno(), 3, inheritable=False) if sock.fileno() != 3 else 3
        os.closerange(4, 1 << 16)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        title = f"{NAME} -namespace {flags['namespace']} -id {flags['id']} -address {flags['address']}"
        # The daemon's own flags, with those of `start` among them, leave room for it.
        process.set_title(title)
        process.set_name(NAME)
        from wherry.shim.log import log_to
        from wherry.shim.server import Settings, serve

        log_to(2, logging.DEBUG if "debug" in flags.switches else logging.INFO)
        settings = Settings(
            flags["namespace"],
            flags["address"],
            os.environ.get("TTRPC_ADDRESS", ""),
            flags["publish-binary"],
            version=bootstrap.VERSION,
            debug="debug" in flags.switches,
        )
        serve(socket.socket(fileno=listener), settings)
        status = 0
    finally:
        os._exit(status)


def _log_fifo() -> int:
    """Open the FIFO that the daemon made; -1 without one. Opening for both never blocks."""
    try:
        return os.open("log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1

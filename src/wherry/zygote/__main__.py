"""The zygote itself: ``python -m wherry.zygote FD PADDING TARGET...``, started by wherry.zygote.client.

It has one thread and no event loop. A request is one SOCK_SEQPACKET message, JSON with descriptors; so is the answer.

A child waits for its request on a socket of its own, so it can be made before there is one: a target with an attribute
``warm``, a function, is kept one child ahead, which has called it and is handed over without a fork on the way.

The child is made by two forks, so that its parent is init and not the zygote: whoever asked waits for it by a pidfd,
which is opened while the intermediate process still holds the child's place in the process table.
"""

from __future__ import annotations

import array
import fcntl
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NoReturn

from wherry.linux.process import die_with_parent, set_name, set_title
from wherry.startup import forgo_tls

Target = Callable[[dict[str, Any], list[int]], None]

#: A request is small: paths and names.
MAX_REQUEST = 64 << 10
MAX_DESCRIPTORS = 16

#: Above every descriptor's number: fs.nr_open as kernels have it.
_ALL = 1 << 20


class _Child:
    """A child that waits for its request."""

    def __init__(self, pid: int, pidfd: int, request_socket: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._socket = request_socket

    def hand_over(self, request: bytes, fds: list[int]) -> bool:
        """Give the child its request; False if it is dead."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([request], rights)
        except (BrokenPipeError, ConnectionResetError):
            return False
        finally:
            self._socket.close()
        return True


def main() -> None:
    """Import the targets, say so, and fork until the other end closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    targets = {name: _import(name) for name in sys.argv[3:]}
    set_title("wherry-zygote")
    set_name("wherry-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pages that no collector touches stay shared with every child.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(b'{"ready": true}')
    spares: dict[str, _Child] = {}
    while True:
        for name, target in targets.items():
            if hasattr(target, "warm") and name not in spares:
                try:
                    spares[name] = _fork(target)
                except OSError as error:
                    # No process, memory or descriptor to be had just now: the next request may find some, or is told.
                    print(f"zygote: no child ahead of its time: {error}", file=sys.stderr)  # noqa: T201
        data, ancillary, _flags, _address = control.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4))
        if not data:
            return
        fds = _descriptors(ancillary)
        try:
            child = _give(data, fds, targets, spares)
        except Exception as error:
            answer: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
            rights = []
        else:
            answer = {"pid": child.pid}
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [child.pidfd]))]
        finally:
            for fd in fds:
                os.close(fd)
        try:
            control.sendmsg([json.dumps(answer).encode()], rights)
        except BrokenPipeError:
            return
        if rights:
            os.close(child.pidfd)


def _give(data: bytes, fds: list[int], targets: dict[str, Target], spares: dict[str, _Child]) -> _Child:
    name = json.loads(data)["target"]
    spare = spares.pop(name, None)
    if spare is not None:
        if spare.hand_over(data, fds):
            return spare
        os.close(spare.pidfd)
    if name not in targets:
        raise LookupError(f"no target {name}")
    child = _fork(targets[name])
    if not child.hand_over(data, fds):
        raise OSError("the child died at once")
    return child


def _import(name: str) -> Target:
    module, _, function = name.partition(":")
    target: Target = getattr(importlib.import_module(module), function)
    return target


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, type_, data in ancillary:
        if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _fork(target: Target) -> _Child:
    with ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        with theirs:
            pid, pidfd = _fork_twice(target, theirs)
        undo.pop_all()
    return _Child(pid, pidfd, ours)


def _fork_twice(target: Target, request_socket: socket.socket) -> tuple[int, int]:
    """Fork the child and return its pid and pidfd; OSError if that is not to be had."""
    with ExitStack() as ends:
        pid_read, pid_write = os.pipe()
        ends.callback(os.close, pid_read)
        writing = ends.enter_context(ExitStack())
        writing.callback(os.close, pid_write)
        go_read, go_write = os.pipe()
        ends.callback(os.close, go_read)
        going = ends.enter_context(ExitStack())
        going.callback(os.close, go_write)
        between = os.fork()
        if between == 0:
            # Nothing but os._exit leaves this branch.
            try:
                os.setsid()
                child = os.fork()
                if child == 0:
                    _become(target, request_socket)
                os.write(pid_write, str(child).encode())
                os.close(go_write)
                # Until the pidfd is open: the child, should it end now, stays a zombie of this process.
                os.read(go_read, 1)
            except OSError as error:
                os.write(pid_write, f"-{error.errno}".encode())
            finally:
                os._exit(0)
        try:
            writing.close()
            answer = int(os.read(pid_read, 32) or b"-0")
            if answer <= 0:
                raise OSError(-answer, os.strerror(-answer) if answer else "the intermediate process was killed")
            return answer, os.pidfd_open(answer)
        finally:
            going.close()
            os.waitpid(between, 0)


def _become(target: Target, request_socket: socket.socket) -> NoReturn:
    """Be the child: a clean process that waits for its request, runs the target and ends."""
    status = 1
    try:
        conversation = _clean_descriptors([request_socket.detach()])[0]
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    continue  # the C library keeps a few for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        random.seed()
        gc.enable()
        warm = getattr(target, "warm", None)
        if warm is not None:
            warm()
        with socket.socket(fileno=conversation) as requests:
            data, ancillary, _flags, _address = requests.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4))
            given = _descriptors(ancillary)
        if data:  # else the zygote is gone, and nobody will ask any more
            request = json.loads(data)
            if request["title"]:
                set_title(request["title"])
                set_name(request["title"].partition(" ")[0])
            target(request["arguments"], _clean_descriptors(given))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _clean_descriptors(fds: list[int]) -> list[int]:
    """Leave open /dev/null as stdio and the given descriptors, now 3 and up, and nothing else."""
    lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number, fd in enumerate(lifted, start=3):
        os.dup2(fd, number, inheritable=False)
    os.closerange(3 + len(lifted), _ALL)
    return list(range(3, 3 + len(lifted)))


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    forgo_tls()
    main()

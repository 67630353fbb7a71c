"""The zygote itself: ``python -m wherry.zygote FD PADDING MEMORY TARGET...``, started by wherry.zygote.client.

It has one thread and no event loop. A request is one SOCK_SEQPACKET message, JSON with descriptors; so is the answer.

One child is always ahead of its request, which it takes from the socket and answers by itself. The zygote only waits to
be told to fork the next: whatever it did besides would be written into pages that its children share with it, and each
of them would hold a copy.

A target may have an attribute ``warm``, a function. It is called in the zygote before anything is forked, until the
interpreter has specialised the code and filled its caches, and in every child that is made before its request: what a
first call costs has been paid by then.

MEMORY says whether the kernel may merge equal pages of the children: "mergeable" or "private".

The child is made by two forks, so that its parent is init and not the zygote: whoever asked waits for it by a pidfd.
"""

from __future__ import annotations

import array
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from wherry.linux import ksm
from wherry.linux.descriptors import close_range
from wherry.linux.own_executable import restore_environment
from wherry.linux.process import die_with_parent, set_name, set_title
from wherry.startup import forgo_fork_handlers, forgo_tls

Target = Callable[[dict[str, Any], list[int]], None]

#: A request is small: paths and names.
MAX_REQUEST = 64 << 10
MAX_DESCRIPTORS = 16

#: How often the zygote calls what its children will: CPython specialises a function at its eighth call.
WARM_ROUNDS = 8

#: How long after a request the next child is made, if no other request comes before.
AHEAD_SECONDS = 0.03

#: Words for MEMORY.
MERGEABLE = "mergeable"
PRIVATE = "private"

#: What a child tells the zygote: it has a request, or there will be none any more.
_TAKEN = b"1"
_CLOSED = b"0"


def main() -> None:
    """Import the targets, say so, and fork until the other end closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    restore_environment()
    close_range(3, control.fileno() - 1)
    close_range(control.fileno() + 1)
    targets = {name: _import(name) for name in sys.argv[4:]}
    set_title("wherry-zygote")
    set_name("wherry-zygote")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for _ in range(WARM_ROUNDS):
        _warm(targets)
    if sys.argv[3] == MERGEABLE:
        ksm.make_mergeable()
    # Pages that no collector touches stay shared with every child.
    gc.collect()
    gc.freeze()
    gc.disable()
    control.send(b'{"ready": true}')
    asked = False
    while True:
        try:
            said = _child_ahead(targets, control)
            error = OSError("a child died before it had taken a request")
        except OSError as failure:
            # No process, memory or descriptor to be had just now: the next request may find some, or is told.
            said, error = b"", failure
        if said == _CLOSED:
            return
        if said != _TAKEN:
            if asked and not _refuse(control, error):
                return
            select.select([control], [], [])
        else:
            # The child that has just gone to work needs the processors more than the next one.
            select.select([control], [], [], AHEAD_SECONDS)
        asked = said != _TAKEN


def _import(name: str) -> Target:
    module, _, function = name.partition(":")
    target: Target = getattr(importlib.import_module(module), function)
    return target


def _warm(targets: dict[str, Target]) -> None:
    for target in targets.values():
        warm = getattr(target, "warm", None)
        if warm is not None:
            warm()


def _child_ahead(targets: dict[str, Target], control: socket.socket) -> bytes:
    """Fork a child and return what it says: b"" if it died instead. OSError if there can be none."""
    read, write = os.pipe()
    try:
        try:
            between = os.fork()
            if between == 0:
                _fork_again(targets, control, write)
        finally:
            os.close(write)
        status = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
        if status:
            raise OSError(status, os.strerror(status) if status > 0 else "the intermediate process was killed")
        return os.read(read, 1)
    finally:
        os.close(read)


def _refuse(control: socket.socket, error: OSError) -> bool:
    """Answer the next request with the reason why there is no child for it; False if the other end has closed."""
    data, ancillary, _flags, _address = control.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4))
    for fd in _descriptors(ancillary):
        os.close(fd)
    return bool(data) and _answer(control, {"error": f"{type(error).__name__}: {error}"})


def _answer(control: socket.socket, values: dict[str, Any], *fds: int) -> bool:
    """Send an answer; False if the other end has closed."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    try:
        control.sendmsg([json.dumps(values).encode()], rights)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, type_, data in ancillary:
        if level == socket.SOL_SOCKET and type_ == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _fork_again(targets: dict[str, Target], control: socket.socket, zygote: int) -> NoReturn:
    """Be the process between the zygote and its child, which becomes init's; the exit status is an errno."""
    status = 0
    try:
        os.setsid()
        between = os.getpid()
        if os.fork() == 0:
            _become(targets, control, zygote, between)
    except OSError as error:
        status = error.errno or 1
    finally:
        os._exit(status)


def _become(targets: dict[str, Target], control: socket.socket, zygote: int, between: int) -> NoReturn:
    """Be the child: a clean process that waits for its request, runs the target and ends."""
    status = 1
    try:
        conversation, zygote = _clean_descriptors([control.detach(), zygote])
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE):
                try:
                    signal.signal(number, signal.SIG_DFL)
                except (OSError, ValueError):
                    continue  # the C library keeps a few for itself
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        _seed()
        gc.enable()
        if not _is_readable(conversation):  # else somebody is waiting already
            _warm(targets)
        while os.getppid() == between:
            time.sleep(0.0005)  # it is about to end, and nothing tells when init has become our parent
        with socket.socket(fileno=conversation) as requests:
            request = _take_request(targets, requests, zygote)
        os.close(zygote)
        # Ignored until now: the zygote, or who asked, may have died meanwhile.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if request is not None:
            target, arguments, given = request
            target(arguments, _clean_descriptors(given))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _seed() -> None:
    """Have numbers of its own: random does not see to it here."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()


def _take_request(
    targets: dict[str, Target], requests: socket.socket, zygote: int
) -> tuple[Target, dict[str, Any], list[int]] | None:
    """Wait for a request and answer it; returns what to run, None if there is nobody to run it for."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    poll.register(zygote, 0)  # its error is always told: once the zygote is dead nobody reads
    if zygote in dict(poll.poll()):
        return None
    data, ancillary, _flags, _address = requests.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(MAX_DESCRIPTORS * 4))
    request = json.loads(data or b"{}")
    target = targets.get(request.get("target"))
    answered = bool(request) and _answer_request(request, target, requests)
    try:
        os.write(zygote, _TAKEN if data else _CLOSED)
    except BrokenPipeError:
        pass  # it has died just now: this request has been answered all the same
    if target is None or not answered:
        return None
    if request["title"]:
        set_title(request["title"])
        set_name(request["title"].partition(" ")[0])
    return target, request["arguments"], _descriptors(ancillary)


def _answer_request(request: dict[str, Any], target: Target | None, requests: socket.socket) -> bool:
    if target is None:
        return _answer(requests, {"error": f"LookupError: no target {request['target']}"})
    pidfd = os.pidfd_open(os.getpid())
    try:
        return _answer(requests, {"pid": os.getpid()}, pidfd)
    finally:
        os.close(pidfd)


def _clean_descriptors(fds: list[int]) -> list[int]:
    """Leave open /dev/null as stdio and the given descriptors, now 3 and up, and nothing else."""
    lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number, fd in enumerate(lifted, start=3):
        os.dup2(fd, number, inheritable=False)
    close_range(3 + len(lifted))
    return list(range(3, 3 + len(lifted)))


if __name__ == "__main__":
    die_with_parent(signal.SIGKILL)
    forgo_tls()
    forgo_fork_handlers()
    main()

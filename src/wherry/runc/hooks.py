"""Hooks: programs that an engine has run at a container's turns. OCI runtime specification, config.md, "POSIX-platform
Hooks"."""

from __future__ import annotations

import os
import select
import time

from wherry.errors import Unknown
from wherry.linux import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: What a failed hook printed is part of the error, up to this many bytes.
_MAX_OUTPUT = 4096


def run_hooks(
    hooks: Sequence[Mapping[str, Any]], state: bytes, cwd: str, *, environment: Mapping[str, str] | None = None
) -> None:
    """Run one kind's hooks in their order, each with a state document on its standard input.

    Their working directory is `cwd`. A hook that names no environment has the given one, by default this process's.

    Unknown, with what it printed, for one that cannot be run, fails, or takes longer than its timeout (seconds); the
    ones after it are not run then.
    """
    if not hooks:
        return
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(cwd)
        _run_all(hooks, state, os.environ if environment is None else environment)
    finally:
        os.fchdir(before)
        os.close(before)


def _run_all(hooks: Sequence[Mapping[str, Any]], state: bytes, environment: Mapping[str, str]) -> None:
    for index, hook in enumerate(hooks):
        try:
            _run(hook, state, environment)
        except OSError as error:
            reason = f"fork/exec {hook['path']}: {(error.strerror or str(error)).lower()}"
            raise Unknown(f"error running hook #{index}: {reason}") from None
        except Unknown as error:
            raise Unknown(f"error running hook #{index}: {error.message}") from None


def _run(hook: Mapping[str, Any], state: bytes, environment: Mapping[str, str]) -> None:
    input, output, errors = os.memfd_create("state"), os.memfd_create("output"), os.memfd_create("errors")
    umask = os.umask(0o022)
    try:
        os.write(input, state)
        os.lseek(input, 0, os.SEEK_SET)
        if hook.get("env"):
            environment = _environment(hook["env"])
        pid = os.posix_spawn(
            hook["path"],
            hook.get("args") or [hook["path"]],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, input, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2),
            ],
            setsigmask=[],
            setsigdef=signals.changed_signals(),
        )
        status = _wait(pid, hook.get("timeout"))
        if status is None:
            raise Unknown(f"hook ran past specified timeout of {hook['timeout']:.1f}s")
        if status:
            printed = os.pread(output, _MAX_OUTPUT, 0).decode(errors="replace")
            complaint = os.pread(errors, _MAX_OUTPUT, 0).decode(errors="replace")
            how = f"exit status {status}" if status > 0 else f"signal: {signals.description(-status).lower()}"
            raise Unknown(f"error running hook: {how}, stdout: {printed}, stderr: {complaint}")
    finally:
        os.umask(umask)
        for fd in (input, output, errors):
            os.close(fd)


def _environment(variables: Sequence[str]) -> dict[str, str]:
    """Return an environment; of a name that is there twice the last one stands, in its place."""
    result: dict[str, str] = {}
    for variable in variables:
        name, _equals, value = variable.partition("=")
        result.pop(name, None)
        result[name] = value
    return result


def _wait(pid: int, timeout: float | None) -> int | None:
    """Return a child's exit code, negative for a signal; None if it had to be killed after a time in seconds."""
    if timeout is None:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    pidfd = os.pidfd_open(pid)
    try:
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        ended = False
        while not ended and (remaining := deadline - time.monotonic()) > 0:
            ended = bool(poll.poll(remaining * 1000))
        if not ended:
            signals.send(pidfd, signals.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)
    return status if ended else None

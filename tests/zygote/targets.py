"""What a zygote under test runs: each target reports on the first descriptor that it is given."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_LOADED_AT = time.monotonic()
_counter = 0


def report(arguments: dict[str, Any], fds: list[int]) -> None:
    """Tell what this process is like."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    words = {
        "arguments": arguments,
        "fds": fds,
        "open": sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
        "stdio": [os.readlink(f"/proc/self/fd/{number}") for number in range(3)],
        "inheritable": [fd for fd in fds if os.get_inheritable(fd)],
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "umask": os.umask(0),
        "ignored": status["SigIgn"].strip(),
        "caught": status["SigCgt"].strip(),
        "blocked": status["SigBlk"].strip(),
        "threads": status["Threads"].strip(),
        "name": status["Name"].strip(),
        "command": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "random": random.random(),
        "temporary": tempfile.mktemp(),
        "loaded_at": _LOADED_AT,
        "now": time.monotonic(),
        "modules": [name for name in ("grpc", "ssl") if sys.modules.get(name)],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": Path("/proc/self/oom_score_adj").read_text().strip(),
        "dies_with_parent": _parent_death_signal(),
        "counter": _counter,
    }
    with os.fdopen(fds[0], "w") as file:
        json.dump(words, file)


def _parent_death_signal() -> int:
    from ctypes import CDLL, byref, c_int

    value = c_int(-1)
    CDLL(None).prctl(2, byref(value), 0, 0, 0)
    return value.value


def lasting(arguments: dict[str, Any], fds: list[int]) -> None:
    """Stay until the descriptor is closed on the other side."""
    os.read(fds[0], 1)


def failing(arguments: dict[str, Any], fds: list[int]) -> None:
    """Fail."""
    raise RuntimeError("as it was told")


def ending(arguments: dict[str, Any], fds: list[int]) -> None:
    """End by a signal."""
    os.kill(os.getpid(), signal.SIGTERM)


def warmed(arguments: dict[str, Any], fds: list[int]) -> None:
    """Report, in a child that was forked ahead."""
    report(arguments, fds)


def _warm() -> None:
    global _counter
    _counter += 1


warmed.warm = _warm  # type: ignore[attr-defined]

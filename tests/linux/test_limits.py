"""limits.py against the kernel."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest

from tests.linux.child import in_child
from wherry.errors import InvalidArgument
from wherry.linux.limits import INFINITY, RLIMITS, set_limit


def test_numbers_are_this_machines() -> None:
    for name, number in RLIMITS.items():
        if name != "RLIMIT_LOCKS":  # Python has no name for it: nothing enforces it any more
            assert getattr(resource, name) == number


def test_limits_of_this_process() -> None:
    def child() -> None:
        set_limit(0, RLIMITS["RLIMIT_NOFILE"], 100, 200)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, 200)
        set_limit(os.getpid(), RLIMITS["RLIMIT_FSIZE"], (1 << 63) + 5, INFINITY)
        with open("/proc/self/limits") as file:
            line = next(line for line in file if line.startswith("Max file size"))
        assert line.split()[3:5] == [str((1 << 63) + 5), "unlimited"]
        with pytest.raises(OSError, match="Invalid argument"):
            set_limit(0, RLIMITS["RLIMIT_NOFILE"], 2, 1)
        for soft, hard in ((-1, 1), (1, INFINITY + 1)):
            with pytest.raises(InvalidArgument):
                set_limit(0, RLIMITS["RLIMIT_NOFILE"], soft, hard)

    in_child(child)


def test_limits_of_another_process() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        set_limit(process.pid, RLIMITS["RLIMIT_CORE"], 0, 0)
        assert resource.prlimit(process.pid, resource.RLIMIT_CORE) == (0, 0)
    finally:
        process.kill()
        process.wait()
    with pytest.raises(ProcessLookupError):
        set_limit(process.pid, RLIMITS["RLIMIT_CORE"], 0, 0)

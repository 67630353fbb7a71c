"""Stopping and resuming all processes of a cgroup.

Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst, and cgroup-v2.rst, "cgroup.freeze".
"""

from __future__ import annotations

import time

from wherry.errors import Unknown
from wherry.runc.cgroups import control_files

# cgroup v1 does not get there for good while new processes keep coming: it takes tries, and thawing in between helps.
_TRIES = 1000
_THAW_EVERY = 50
_THAW_SECONDS = 0.01
_POLL_SECONDS = 0.001
_V2_SECONDS = 10.0


def freeze_v1(directory: str) -> None:
    """Stop the processes. Returns when they are. OSError; Unknown if it can't be done, and then they run on."""
    try:
        for attempt in range(1, _TRIES + 1):
            if attempt % _THAW_EVERY == 0:
                control_files.write(directory, "freezer.state", "THAWED")
                time.sleep(_THAW_SECONDS)
            control_files.write(directory, "freezer.state", "FROZEN")
            state = control_files.read(directory, "freezer.state").strip()
            if state == "FROZEN":
                return
            if state != "FREEZING":
                raise Unknown(f"unexpected state {state} while freezing")
            if attempt > 1:
                # Processes in the kernel (a disk, vfork) get there when they come out of it.
                time.sleep(_POLL_SECONDS if attempt % 5 == 0 else 0)
        raise Unknown("unable to freeze")
    except BaseException:
        try:
            thaw_v1(directory)
        except OSError:
            pass  # what is told is why it could not be frozen
        raise


def thaw_v1(directory: str) -> None:
    """Let the processes run. OSError."""
    control_files.write(directory, "freezer.state", "THAWED")


def frozen_v1(directory: str) -> bool:
    """Tell whether the processes are stopped, by this cgroup's own state; not if it is gone."""
    try:
        for _ in range(_TRIES):
            state = control_files.read(directory, "freezer.state").strip()
            if state != "FREEZING":
                break
            time.sleep(_POLL_SECONDS)
        return state != "THAWED" and control_files.read(directory, "freezer.self_freezing").strip() == "1"
    except OSError as error:
        if error.errno in control_files.GONE:
            return False
        raise


def freeze_v2(directory: str) -> None:
    """Stop the processes. Returns when they are. OSError; Unknown if some can't be within ten seconds."""
    try:
        control_files.write(directory, "cgroup.freeze", "1")
    except FileNotFoundError as error:
        raise Unknown(f"freezer not supported: {control_files.refused(error).message}") from None
    deadline = time.monotonic() + _V2_SECONDS
    while not _frozen_by_events(directory):
        if time.monotonic() > deadline:
            thaw_v2(directory)
            raise Unknown("unable to freeze")
        time.sleep(_POLL_SECONDS)


def thaw_v2(directory: str) -> None:
    """Let the processes run. OSError."""
    control_files.write(directory, "cgroup.freeze", "0")


def frozen_v2(directory: str) -> bool:
    """Tell whether the processes are stopped, by this cgroup's own state; not if it is gone."""
    try:
        return control_files.read(directory, "cgroup.freeze").strip() == "1"
    except OSError as error:
        if error.errno in control_files.GONE:
            return False  # the root, too, has no such file
        raise


def _frozen_by_events(directory: str) -> bool:
    events = dict(line.split() for line in control_files.read(directory, "cgroup.events").splitlines())
    return events.get("frozen") == "1"

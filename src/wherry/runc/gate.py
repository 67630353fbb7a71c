"""What holds a created container back until it is started: a FIFO in its state directory that its process reads.

The process has the FIFO open at both ends from the beginning, so that one read(2) is all that it does at the gate: its
seccomp filter may be in place by then. After the start the FIFO is closed with its other descriptors; who opens it to
write is told that nobody reads it (fifo(7), ENXIO), which is how "created" is told from "running".
"""

from __future__ import annotations

import errno
import fcntl
import os

NAME = "start.fifo"

_GO = b"1"


def make_gate(state: int) -> int:
    """Make a FIFO in a state directory, given by its descriptor, and return it, open at both ends. OSError."""
    os.mkfifo(NAME, 0o600, dir_fd=state)
    return os.open(NAME, os.O_RDWR | os.O_CLOEXEC, dir_fd=state)


def wait_at_gate(gate: int) -> None:
    """Return when the container is to be started."""
    os.read(gate, 1)
    os.close(gate)


def is_waiting(state: str) -> bool:
    """Tell whether a container's process waits to be started."""
    gate = _open(state)
    if gate < 0:
        return False
    os.close(gate)
    return True


def open_gate(state: str) -> bool:
    """Start a container; False if its process does not wait. OSError."""
    gate = _open(state)
    if gate < 0:
        return False
    try:
        # Two may do this at once, and only one of them has started it.
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not os.fstat(gate).st_nlink:
            return False
        os.write(gate, _GO)
        os.unlink(os.path.join(state, NAME))
    finally:
        os.close(gate)
    return True


def _open(state: str) -> int:
    """Return the FIFO to write to; -1 if it is gone, or nobody reads it."""
    try:
        return os.open(os.path.join(state, NAME), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1
        raise

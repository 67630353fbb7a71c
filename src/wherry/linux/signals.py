"""Signals by the C module beneath `signal`, which makes an enum of everything and takes 3 ms to import. signal(7)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

SIGKILL: int = _signal.SIGKILL
SIGSTOP: int = _signal.SIGSTOP

#: The last number and one more.
NSIG: int = _signal.NSIG


def changed_signals() -> list[int]:
    """Return the signals that are not at their default in this process."""
    changed = []
    for number in range(1, NSIG):
        if number not in (SIGKILL, SIGSTOP) and _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            changed.append(number)
    return changed


def set_default(number: int) -> None:
    """Have a signal do what it does by default. OSError for those that the C library keeps for itself."""
    _signal.signal(number, _signal.SIG_DFL)


def block_none() -> None:
    """Empty this thread's signal mask, and have no signal written to a descriptor."""
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def send(pidfd: int, number: int) -> None:
    """Send a signal to the process of a pidfd, pidfd_send_signal(2). Raises OSError."""
    _signal.pidfd_send_signal(pidfd, number)


def description(number: int) -> str:
    """Return what a signal is called, strsignal(3)."""
    return _signal.strsignal(number) or f"signal {number}"

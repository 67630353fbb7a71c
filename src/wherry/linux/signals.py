"""Signals by the C module beneath `signal`, which makes an enum of everything and takes 3 ms to import. signal(7)."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    #: A function, or one of the C library's own ways.
    Handler = Callable[[int, FrameType | None], None] | int | None

SIGABRT: int = _signal.SIGABRT
SIGALRM: int = _signal.SIGALRM
SIGBUS: int = _signal.SIGBUS
SIGCHLD: int = _signal.SIGCHLD
SIGCONT: int = _signal.SIGCONT
SIGFPE: int = _signal.SIGFPE
SIGHUP: int = _signal.SIGHUP
SIGILL: int = _signal.SIGILL
SIGINT: int = _signal.SIGINT
SIGKILL: int = _signal.SIGKILL
SIGPIPE: int = _signal.SIGPIPE
SIGQUIT: int = _signal.SIGQUIT
SIGSEGV: int = _signal.SIGSEGV
SIGSTOP: int = _signal.SIGSTOP
SIGSYS: int = _signal.SIGSYS
SIGTERM: int = _signal.SIGTERM
SIGTRAP: int = _signal.SIGTRAP
SIGTTIN: int = _signal.SIGTTIN
SIGTTOU: int = _signal.SIGTTOU
SIGURG: int = _signal.SIGURG
SIGUSR1: int = _signal.SIGUSR1
SIGUSR2: int = _signal.SIGUSR2
SIGWINCH: int = _signal.SIGWINCH

#: The last number and one more.
NSIG: int = _signal.NSIG


def changed_signals() -> list[int]:
    """Return the signals that are not at their default in this process."""
    changed = []
    for number in range(1, NSIG):
        if number not in (SIGKILL, SIGSTOP) and _signal.getsignal(number) not in (_signal.SIG_DFL, None):
            changed.append(number)
    return changed


def number_of(name: str) -> int | None:
    """Return the number of a signal by its name ("SIGTERM"), None if there is none of that name."""
    number: int | None = None if name.startswith("SIG_") else getattr(_signal, name, None)
    return number


def set_default(number: int) -> None:
    """Have a signal do what it does by default. OSError for those that the C library keeps for itself."""
    _signal.signal(number, _signal.SIG_DFL)


def ignore(number: int) -> None:
    """Have a signal do nothing. OSError for those that the C library keeps for itself."""
    _signal.signal(number, _signal.SIG_IGN)


def handle(number: int, handler: Handler) -> Handler:
    """Have a function called when a signal has come, and return what was there before.

    OSError for those that the C library keeps for itself.
    """
    before: Handler = _signal.signal(number, handler)
    return before


def wake_by(fd: int) -> None:
    """Have the number of each handled signal written to a descriptor as well, -1 for none; one that is full is fine."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


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

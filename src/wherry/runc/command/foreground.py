"""A container's process in the foreground: its streams carried, signals handed on, its end waited for."""

from __future__ import annotations

import os
import select

from wherry.linux import signals
from wherry.linux.process import become_subreaper
from wherry.runc.command.copying import Copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType
    from typing import Any

    from wherry.runc.command.console import ConsoleSocket, HostTerminal
    from wherry.runc.command.log import Log
    from wherry.runc.command.notify import Notification

#: Not handed on. SIGURG is what Go's own runtime uses, so that nobody sends it to runc for the container. SIGPIPE tells
#: of a reader that has gone. The others stop whoever touches a terminal from the background, which is us.
_IGNORED = (signals.SIGPIPE, signals.SIGURG, signals.SIGTTIN, signals.SIGTTOU)
#: These tell of a fault of this program's own when they come, and cannot wait.
_FAULTS = (
    signals.SIGSEGV, signals.SIGBUS, signals.SIGFPE, signals.SIGILL, signals.SIGABRT, signals.SIGTRAP, signals.SIGSYS
)  # fmt: skip
#: Left as they are.
_UNHANDLED = (signals.SIGKILL, signals.SIGSTOP, *_FAULTS)


class Foreground:
    """What a foreground call does for its process. It is made before that, so that no signal is lost."""

    def __init__(self, process: Mapping[str, Any], log: Log, *, root: tuple[int, int] = (0, 0), reaps: bool) -> None:
        """`root` are the ids on the host of root in the container. `reaps`: orphans of the container become this
        process's children. OSError if the process is to have a terminal, and there is none here to show it."""
        self._log = log
        self._copies: list[Copy] = []
        self._inputs: list[Copy] = []
        self._theirs: list[int] = []
        self._terminal: HostTerminal | None = None
        self._socket: ConsoleSocket | None = None
        self._master = -1
        self._pid = 0
        self._status: int | None = None
        self._early: list[int] = []
        #: What the process tells of its being ready, for the service manager: this process stays the main one.
        self.notification: Notification | None = None
        #: What become the process's standard streams, where it has no terminal.
        self.stdio: Sequence[int] = (0, 1, 2)
        if process.get("terminal"):
            from wherry.runc.command.console import ConsoleSocket, HostTerminal

            self._terminal = HostTerminal()
            self._socket = ConsoleSocket()
        else:
            self._make_pipes(root)
        if reaps:
            become_subreaper()
        self._handle_signals()

    @property
    def console_socket(self) -> str:
        return self._socket.path if self._socket else ""

    @property
    def console_size(self) -> dict[str, int] | None:
        """The size of the terminal here, None without one."""
        return self._terminal.size() if self._terminal else None

    def _make_pipes(self, root: tuple[int, int]) -> None:
        """Keep the caller's own files out of the container: a terminal among them could be typed into from there."""
        read, write = os.pipe2(os.O_CLOEXEC)
        self._inputs.append(Copy(0, write, owns=(write,)))
        self._theirs.append(read)
        for target in (1, 2):
            read, write = os.pipe2(os.O_CLOEXEC)
            self._copies.append(Copy(read, target, owns=(read,)))
            self._theirs.append(write)
        self.stdio = tuple(self._theirs)
        if root != (0, 0):
            for fd in self._theirs:
                os.fchown(fd, *root)

    # -- signals ------------------------------------------------------------------------------------------------------

    def _handle_signals(self) -> None:
        self._woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signals.wake_by(waker)
        self._waker = waker
        for number in range(1, signals.NSIG):
            try:
                if number in _IGNORED:
                    signals.ignore(number)
                elif number not in _UNHANDLED:
                    signals.handle(number, self._hand_on)
            except OSError:
                continue  # one that the C library keeps for itself

    def _hand_on(self, number: int, _frame: FrameType | None) -> None:
        if number == signals.SIGCHLD:
            return  # the pipe has been written to
        if number == signals.SIGWINCH:
            if self._terminal and self._master >= 0:
                self._terminal.resize(self._master)
        elif not self._pid:
            self._early.append(number)
        elif self._status is None:
            self._log.debug(f"forwarding signal {number} to {self._pid}")
            try:
                os.kill(self._pid, number)
            except OSError as error:
                self._log.error((error.strerror or "").lower())

    # -- the process's time -------------------------------------------------------------------------------------------

    def take_terminal(self, channel: int = -1) -> None:
        """Take the terminal that the process sends, waiting for it until there is something to read on a channel, so
        that it is as it should be before the program begins. Unknown if none comes."""
        if self._socket and self._terminal:
            from wherry.runc.command.console import leave_newlines

            self._master = self._socket.receive(channel)
            leave_newlines(self._master)
            os.set_blocking(self._master, False)
            self._terminal.resize(self._master)

    def attach(self, pid: int) -> None:
        """Begin with a process, which has its streams by now and may not have begun. Unknown if it sent no terminal."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        if self._terminal:
            if self._master < 0:
                self.take_terminal()
            self._terminal.make_raw()
            self._inputs.append(Copy(0, self._master))
            self._copies.append(Copy(self._master, 1))
        self._pid = pid
        for number in self._early:
            self._hand_on(number, None)

    def wait(self) -> int:
        """Return the process's exit code, as a shell has it, when it has ended and its output has been written."""
        while self._status is None or (self._master < 0 and not all(copy.ended for copy in self._copies)):
            # An end that came before the handler was there wakes nobody.
            self._collect()
            self._carry(blocking=self._status is None or self._master < 0)
        if self._master >= 0:
            # Others may have the terminal open for long.
            for copy in self._copies:
                copy.drain()
        return self._status

    def _carry(self, *, blocking: bool) -> None:
        if self._status is None:
            copies = [copy for copy in (*self._copies, *self._inputs) if not copy.ended]
        else:
            copies = [copy for copy in self._copies if not copy.ended]
            if not copies:
                return
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        wanted: dict[int, int] = {}
        for copy in copies:
            fd, event = copy.wants()
            wanted[fd] = wanted.get(fd, 0) | event
        for fd, events in wanted.items():
            poll.register(fd, events)
        if self.notification is not None:
            poll.register(self.notification.fileno(), select.POLLIN)
        ready = dict(poll.poll(None if blocking else 0))
        if self.notification is not None and self.notification.fileno() in ready:
            self._notify(self.notification)
        if self._woken in ready:
            try:
                os.read(self._woken, 4096)
            except BlockingIOError:
                pass
        for copy in copies:
            fd, event = copy.wants()
            if ready.get(fd, 0) & (event | select.POLLHUP | select.POLLERR | select.POLLNVAL):
                copy.advance()

    def _notify(self, notification: Notification) -> None:
        try:
            if not notification.receive(os.getpid()):
                return
        except OSError as error:
            self._log.warning(f"the service manager does not listen: {(error.strerror or '').lower()}")
        notification.close()
        self.notification = None

    def _collect(self) -> None:
        """Collect every child that has ended."""
        while self._status is None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
                self._let_signals_end_us()

    def _let_signals_end_us(self) -> None:
        """Nobody is left to hand them to: whoever waits for the last output may have had enough of it."""
        for number in (signals.SIGINT, signals.SIGTERM, signals.SIGHUP, signals.SIGQUIT):
            signals.set_default(number)

    def close(self) -> None:
        """Leave everything as it was."""
        for fd in self._theirs:
            os.close(fd)
        self._theirs.clear()
        for copy in (*self._copies, *self._inputs):
            copy.end()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self._terminal:
            self._terminal.close()
        if self._socket:
            self._socket.close()
        signals.wake_by(-1)
        os.close(self._woken)
        os.close(self._waker)

"""A process attached to this one: its streams, its terminal, signals on their way to it."""

from __future__ import annotations

import os
import sys

from wherry.api.services.tasks.v1 import tasks_pb2
from wherry.client.stdio import Fifos, Streams
from wherry.linux import signals
from wherry.rpc.service import Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from google.protobuf.message import Message

    from wherry.client.client import Client
    from wherry.client.connection import BlockingChannel
    from wherry.client.terminal import RawTerminal

#: What is passed on. The others end us, or belong to the terminal's job control.
_FORWARDED = (
    signals.SIGINT,
    signals.SIGTERM,
    signals.SIGHUP,
    signals.SIGQUIT,
    signals.SIGUSR1,
    signals.SIGUSR2,
    signals.SIGCONT,
    signals.SIGALRM,
)

#: Seconds for the output of a process that has ended to arrive.
_DRAIN = 2.0

_TASKS = tasks_pb2.DESCRIPTOR.services_by_name["Tasks"]


class Attached:
    """A process's streams connected to ours for the length of a block; everything is put back and closed at its end."""

    def __init__(
        self, channel: BlockingChannel, client: Client, id: str, exec_id: str, *, stdin: bool, terminal: bool
    ) -> None:
        self._channel = channel
        self._metadata = client.metadata
        self._id = id
        self._exec_id = exec_id
        self._wants_stdin = stdin
        self.fifos = Fifos(exec_id or id, stdin=stdin, terminal=terminal)
        self._streams = Streams(channel, self.fifos)
        self._raw: RawTerminal | None = None
        if terminal:
            from wherry.client.terminal import RawTerminal

            self._raw = RawTerminal(0)
        self._signals: list[int] = []
        self._saved: dict[int, signals.Handler] = {}
        self._wakeup: tuple[int, int] | None = None

    def __enter__(self) -> Attached:
        try:
            self._streams.open_outputs(1, 2)
            self._catch_signals()
            if self._raw is not None:
                self._raw.__enter__()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._raw is not None:
            self._raw.__exit__(kind, error, traceback)
        self._release_signals()
        self._streams.close()
        self.fifos.remove()

    def started(self) -> None:
        """Say that the process runs: its ends are open, its terminal has a size, its input can flow."""
        self._streams.opened()
        self._resize()
        if self._wants_stdin:
            self._streams.open_input(0, self._close_stdin)

    def created(self) -> None:
        """Say that the shim has opened the FIFOs."""
        self._streams.opened()

    def drain(self) -> None:
        """Copy what is left of the output of a process that has ended."""
        self._streams.drain(_DRAIN)
        sys.stdout.flush()

    # -- signals: written to a pipe by the handler, handled where the channel waits ----------------------------------

    def _catch_signals(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = read, write
        for number in (*_FORWARDED, signals.SIGWINCH):
            self._saved[number] = signals.handle(number, self._handle)
        self._channel.add_reader(read, self._forward)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
        if self._wakeup is not None:
            try:
                os.write(self._wakeup[1], b"\0")
            except BlockingIOError:
                return  # full of reasons to wake up as it is

    def _forward(self) -> None:
        assert self._wakeup is not None
        try:
            os.read(self._wakeup[0], 4096)
        except BlockingIOError:
            return
        while self._signals:
            number = self._signals.pop(0)
            if number == signals.SIGWINCH:
                self._resize()
            else:
                self._send("Kill", tasks_pb2.KillRequest(container_id=self._id, exec_id=self._exec_id, signal=number))

    def _release_signals(self) -> None:
        for number, handler in self._saved.items():
            signals.handle(number, handler)
        self._saved.clear()
        if self._wakeup is not None:
            self._channel.remove_reader(self._wakeup[0])
            for fd in self._wakeup:
                os.close(fd)
            self._wakeup = None

    def _resize(self) -> None:
        if self._raw is None:
            return
        from wherry.client.terminal import size

        if (window := size(0) or size(1)) is not None:
            columns, rows = window
            request = tasks_pb2.ResizePtyRequest(
                container_id=self._id, exec_id=self._exec_id, width=columns, height=rows
            )
            self._send("ResizePty", request)

    def _close_stdin(self) -> None:
        request = tasks_pb2.CloseIORequest(container_id=self._id, exec_id=self._exec_id, stdin=True)
        self._send("CloseIO", request)

    def _send(self, name: str, request: Message) -> None:
        """Make a call whose answer nobody waits for: the process may have ended meanwhile."""
        method = Method(_TASKS.full_name, _TASKS.methods_by_name[name])
        self._channel.start_unary(method, request, metadata=self._metadata)

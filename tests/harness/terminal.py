"""A program in a terminal: typed to, read from, waited for."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.harness.command import environment


class Terminal:
    """Runs a program as the foreground job of a new pseudo terminal; ends it when the block ends."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        rows: int = 24,
        columns: int = 80,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = tuple(str(argument) for argument in arguments)
        self.seen = bytearray()
        self._found = 0
        self.controller, terminal = os.openpty()
        self.resize(rows, columns)
        try:
            self._process = subprocess.Popen(
                # A session of its own with this terminal, and the same process: no code of ours runs after the fork,
                # which would not do beside threads.
                ["setsid", "--ctty", *self.arguments],
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                env=environment({"TERM": "xterm", **(env or {})}),
            )
        finally:
            os.close(terminal)

    @property
    def pid(self) -> int:
        return self._process.pid

    def resize(self, rows: int, columns: int) -> None:
        """Set the window's size; the foreground job gets SIGWINCH."""
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def attributes(self) -> list[object]:
        """Return the terminal's modes, as termios.tcgetattr gives them."""
        return list(termios.tcgetattr(self.controller))

    def enter(self, text: str) -> None:
        os.write(self.controller, text.encode())

    def read_until(self, text: str, timeout: float = 30.0) -> str:
        """Read on, from behind what the last such call found, until `text` appears; returns what came with it.

        AssertionError if it does not appear in time, or the program ends.
        """
        start = self._found
        deadline = time.monotonic() + timeout
        while (at := self.seen.find(text.encode(), start)) < 0:
            if not self._read(deadline):
                raise AssertionError(f"no {text!r} from {' '.join(self.arguments)}, but: {bytes(self.seen[start:])!r}")
        self._found = at + len(text.encode())
        return self.seen[start : self._found].decode(errors="replace")

    def wait(self, timeout: float = 30.0) -> int:
        """Read to the end and return the exit status. AssertionError if the program does not end."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        try:
            return self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(self.arguments)} goes on after: {self.text!r}") from None

    @property
    def text(self) -> str:
        return self.seen.decode(errors="replace")

    def _read(self, deadline: float) -> bool:
        """Read once; False at the end or when the time is over."""
        ready, _, _ = select.select([self.controller], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self.controller, 65536)
        except OSError:
            return False  # EIO: nobody has the terminal open any more
        self.seen += data
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self.controller)

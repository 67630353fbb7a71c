"""Bytes carried between descriptors while other things are waited for. poll(2), splice(2)."""

from __future__ import annotations

import errno
import os
import select

_SIZE = 1 << 16

#: A pipe that can be written to takes so many bytes at once without blocking: pipe(7), PIPE_BUF.
_PIECE = 4096

_ENDED = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET)


class Copy:
    """Carries what comes from one descriptor to another, in turns that do not block.

    Neither is made non-blocking for it: others may have them open, and would be surprised.
    """

    def __init__(self, source: int, target: int, *, owns: tuple[int, ...] = ()) -> None:
        self._source = source
        self._target = target
        #: Closed at the end.
        self._owns = owns
        self._pending = b""
        self._is_readable = False
        self._splices = True
        self.ended = False

    def wants(self) -> tuple[int, int]:
        """Return the descriptor that is waited for, and poll(2)'s event."""
        if self._pending or self._is_readable:
            return self._target, select.POLLOUT
        return self._source, select.POLLIN

    def advance(self) -> None:
        """Do what can be done now that the event is there, or that its descriptor has hung up."""
        try:
            if self._pending:
                self._write()
            elif not self._is_readable:
                self._is_readable = True
            else:
                self._is_readable = False
                self._move()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _ENDED:
                raise
            self.end()

    def _move(self) -> None:
        if self._splices:
            try:
                if os.splice(self._source, self._target, _SIZE, flags=os.SPLICE_F_NONBLOCK) == 0:
                    self.end()
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._splices = False  # no pipe among them, or a file that is appended to
        self._pending = os.read(self._source, _SIZE)
        if self._pending:
            self._write()
        else:
            self.end()

    def _write(self) -> None:
        written = os.write(self._target, self._pending[:_PIECE])
        self._pending = self._pending[written:]

    def drain(self) -> None:
        """Carry over what is there already. The source must be non-blocking."""
        while not self.ended:
            try:
                self._write() if self._pending else self._move()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _ENDED:
                    raise
                self.end()

    def end(self) -> None:
        """Carry nothing more, and close what is owned."""
        if self.ended:
            return
        self.ended = True
        for fd in self._owns:
            os.close(fd)

"""Copying bytes from one descriptor to another in the event loop: by splice(2) where the kernel can, else by hand."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import select
from collections.abc import Callable

log = logging.getLogger(__name__)

_CHUNK = 64 << 10

#: Bytes moved in one go before other streams get their turn; what a pipe grows to that was found full.
_TURN = 1 << 20

#: What a pipe holds until it grows; pipe(7).
_USUAL_PIPE = 64 << 10

#: Less than this moved at once, so many times in a row with less than a millisecond between, is a trickle: then the
#: source is left alone for a millisecond, in which small writes fill whole pages.
_LITTLE, _TRICKLE, _REST = 16 << 10, 8, 0.001

#: SPLICE_F_MOVE | SPLICE_F_NONBLOCK, splice(2).
_SPLICE_FLAGS = 0x01 | 0x02


class Copier:
    """Copies from one descriptor to another until the source ends; owns both and closes them then.

    splice(2) needs a pipe on either side and refuses a target opened to append: then bytes are read and written.
    """

    def __init__(
        self, source: int, target: int, done: Callable[[], None], *, output: bool, splice: bool = True
    ) -> None:
        """`done` is called when both are closed. `output` is whether a container's process writes the source.

        A container is neither stopped nor ended because its output cannot be written: that is dropped (a full disk).
        Input that cannot be written ends the copying (the process closed its stdin).
        """
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._target = target
        self._done = done
        self._output = output
        self._splice = splice
        self._pending = b""
        self._dropping = False
        self._writable = select.poll()
        self._writable.register(target, select.POLLOUT)
        self.finished = False
        #: Whether the source came to its end: nobody will write it any more.
        self.ended = False
        os.set_blocking(source, False)
        os.set_blocking(target, False)
        self._started = False
        self._grown = False
        self._little = 0
        self._last = 0.0
        self._resting: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to copy. Does nothing the second time."""
        if not self._started and not self.finished:
            self._started = True
            self._loop.add_reader(self._source, self._copy)

    def _copy(self) -> None:
        moved = 0
        try:
            while moved < _TURN:
                count = self._splice_once() if self._splice else self._write_once()
                if count == 0:
                    self.ended = True
                    self.close()
                    return
                moved += count
                if count >= _USUAL_PIPE and not self._grown:
                    self._grow()
        except BlockingIOError:
            # Either end may be the one that blocks: the target, if it cannot be written now.
            if self._pending or not self._writable.poll(0):
                self._loop.remove_reader(self._source)
                self._loop.add_writer(self._target, self._resume)
            elif self._trickles(moved):
                self._loop.remove_reader(self._source)
                self._resting = self._loop.call_later(_REST, self._rested)
        except OSError:
            # EIO: the last descriptor of the terminal's other side was closed. EPIPE: nobody will ever read.
            self.close()

    def _grow(self) -> None:
        """Let what was found full hold more, so that its ends wake each other more seldom."""
        self._grown = True
        for fd in (self._source, self._target):
            try:
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _TURN)
            except OSError:
                continue  # no pipe, or the user has as much in pipes as may be: it works all the same

    def _trickles(self, moved: int) -> bool:
        now = self._loop.time()
        # What comes together in a rest is more, and still the same trickle.
        little = _LITTLE if self._little < _TRICKLE else _TURN // 2
        self._little = self._little + 1 if moved < little and now - self._last < 3 * _REST else 0
        self._last = now
        return self._little >= _TRICKLE

    def _rested(self) -> None:
        self._resting = None
        self._loop.add_reader(self._source, self._copy)
        self._copy()

    def _splice_once(self) -> int:
        try:
            return os.splice(self._source, self._target, _TURN, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno != errno.EINVAL and not self._output:
                raise
            self._splice = False
            return self._write_once()

    def _write_once(self) -> int:
        if not self._pending:
            self._pending = os.read(self._source, _CHUNK)
            if not self._pending:
                return 0
        try:
            count = os.write(self._target, self._pending)
            self._dropping = False
        except BlockingIOError:
            raise
        except OSError as error:
            if not self._output:
                raise
            if not self._dropping:
                log.warning("output of a container is dropped: %s", error.strerror)
            self._dropping = True
            count = len(self._pending)
        self._pending = self._pending[count:]
        return count

    def _resume(self) -> None:
        self._loop.remove_writer(self._target)
        self._loop.add_reader(self._source, self._copy)
        self._copy()

    def finish(self) -> None:
        """Copy what is there now and can be written at once, then close."""
        if not self.finished:
            self._copy()
        self.close()

    def close(self) -> None:
        """Stop copying and close both ends. Does nothing the second time."""
        if self.finished:
            return
        self.finished = True
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._target)
        os.close(self._source)
        os.close(self._target)
        self._done()

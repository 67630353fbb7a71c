"""Shims' logs: the FIFO `log` of a bundle, copied line by line into the daemon's own log."""

from __future__ import annotations

import asyncio
import os
import sys

from wherry.daemon.runtime.bundle import Bundle

_CHUNK = 65536


class ShimLog:
    """The reading end of one bundle's log, until the bundle is gone."""

    def __init__(self, bundle: Bundle) -> None:
        path = os.path.join(bundle.path, "log")
        try:
            os.mkfifo(path, 0o700)
        except FileExistsError:
            pass  # a daemon before this one made it
        #: Open for reading and writing: a shim that opens it never blocks, nor does it end when the shim does.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.fd, self._copy)

    def _copy(self) -> None:
        try:
            data = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()

    def close(self) -> None:
        if self.fd >= 0:
            self._loop.remove_reader(self.fd)
            os.close(self.fd)
            self.fd = -1

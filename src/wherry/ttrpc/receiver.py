"""What both ends of a connection have in common in an event loop: how bytes come in."""

from __future__ import annotations

import asyncio
import mmap

#: Bytes that are taken from the socket at once.
_SIZE = 256 << 10


class Receiver(asyncio.BufferedProtocol):
    """A protocol that is given bytes by `data_received`.

    asyncio's own way makes a buffer for every read, which is three system calls and a page fault for a message of some
    bytes. This one is mapped once, and has no page before it is written to.
    """

    def __init__(self) -> None:
        self._buffer = mmap.mmap(-1, _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def get_buffer(self, sizehint: int) -> mmap.mmap:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes])

    def data_received(self, data: bytes) -> None:
        """Take bytes from the peer."""
        raise NotImplementedError

"""A compressed layer as it is read: from a file, or from one that is being written yet, decompressed ahead."""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Iterator
from typing import Protocol

from wherry.errors import Unavailable
from wherry.images.compression import MAGIC_SIZE, NONE, OUTPUT, decompressed, detect
from wherry.images.following import COMPLETE, OFFSET_SIZE
from wherry.oci import digest as digests

#: What is read of the compressed layer at a time.
_INPUT = 64 << 10
#: The same of one that is not compressed.
_PLAIN = OUTPUT
#: Decompressed pieces that may wait for their reader.
_WAITING = 4


class Source(Protocol):
    """Compressed bytes."""

    def read(self, size: int) -> bytes:
        """Return some bytes, at most `size`; none at the end. Raises OSError, and kinds of wherry.errors."""

    def stop(self) -> None:
        """Let a read that waits return, from another thread."""


class File:
    """A file that is complete."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        return os.read(self._fd, size)

    def stop(self) -> None:
        """Nothing waits."""


class GrowingFile:
    """A file that somebody is writing: from a socket comes how far it can be read, 8 octets each, little-endian.

    COMPLETE is the last word. If the socket ends without it, there will be no more of the file.
    """

    def __init__(self, fd: int, control: int) -> None:
        self._fd = fd
        self._control = control
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        for each in (control, self._stop):
            self._poll.register(each, select.POLLIN)
        self._at = 0
        self._available = 0
        self._complete = False
        self._rest = b""

    def read(self, size: int) -> bytes:
        while self._at == self._available and not self._complete:
            self._wait()
        data = os.pread(self._fd, min(size, self._available - self._at), self._at)
        if not data and self._at < self._available:
            raise Unavailable("the layer has become shorter while it was read")
        self._at += len(data)
        return data

    def _wait(self) -> None:
        ready = {fd for fd, _ in self._poll.poll()}
        if self._stop in ready:
            raise Unavailable("stopped")
        said = os.read(self._control, 4096)
        if not said:
            raise Unavailable("whoever was fetching the layer has given up")
        said = self._rest + said
        whole = len(said) - len(said) % OFFSET_SIZE
        self._rest = said[whole:]
        for at in range(0, whole, OFFSET_SIZE):
            offset = int.from_bytes(said[at : at + OFFSET_SIZE], "little")
            if offset == COMPLETE:
                self._complete = True
            elif offset < self._available or self._complete:
                raise Unavailable("whoever was fetching the layer has started again")
            else:
                self._available = offset

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)


class DecompressedLayer:
    """The decompressed bytes of a layer, read and hashed ahead in a thread of their own while they are iterated over.

    After the last piece, `digest` ("sha256:…") and `size` are those of all of them.
    """

    def __init__(self, source: Source, *, compressed: bool) -> None:
        """Unless `compressed`, the bytes are taken as they are, whatever they look like; else their compression is
        told from how they begin."""
        self.size = 0
        self.digest = ""
        self._source = source
        #: Queues in C, as queue.Queue is not: one for the pieces, one for leave to make more of them.
        self._pieces: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        self._leave: queue.SimpleQueue[bool] = queue.SimpleQueue()
        for _ in range(_WAITING):
            self._leave.put(True)
        self._stopped = False
        self._thread = threading.Thread(target=self._produce, args=(compressed,), name="decompress", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self._leave.put(True)

    def close(self) -> None:
        """Stop reading ahead, if the end was not reached."""
        self._stopped = True
        self._leave.put(False)
        self._source.stop()
        self._thread.join()

    def _produce(self, compressed: bool) -> None:
        try:
            hasher = digests.hasher()
            for piece in self._decompressed(compressed):
                hasher.update(piece)
                self.size += len(piece)
                self._leave.get()
                if self._stopped:
                    return
                self._pieces.put(piece)
            self.digest = "sha256:" + hasher.hexdigest()
            self._pieces.put(None)
        except BaseException as error:
            self._pieces.put(error)

    def _decompressed(self, compressed: bool) -> Iterator[bytes]:
        if not compressed:
            return _pieces(self._source, b"", _PLAIN)
        head = b""
        while len(head) < MAGIC_SIZE and (piece := self._source.read(_INPUT)):
            head += piece
        kind = detect(head)
        return decompressed(_pieces(self._source, head, _INPUT if kind != NONE else _PLAIN), kind)


def _pieces(source: Source, head: bytes, size: int) -> Iterator[bytes]:
    if head:
        yield head
    while piece := source.read(size):
        yield piece

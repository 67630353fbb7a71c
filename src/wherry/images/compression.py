"""The compressions of layers: gzip (RFC 1952) by zlib, Zstandard (RFC 8878) by zstandard, and none."""

from __future__ import annotations

import os
import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import zstandard

from wherry.images.tar import ArchiveError
from wherry.oci import digest as digests

GZIP = "gzip"
ZSTD = "zstd"
NONE = ""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one octet of 0x50 to 0x5f

#: What is read of the compressed layer, and handed on of the other, at a time.
_PIECE = 1 << 20
#: Decompressed pieces that may wait for their reader.
_WAITING = 8
#: Of what is fed to the Zstandard decoder at once: a block of 4 octets may stand for 128 KiB, so this bounds what comes
#: out to some 128 MiB.
_ZSTD_PIECE = 4096


def detect(head: bytes) -> str:
    """Tell the compression from the first octets of a stream."""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return ZSTD
    return NONE


class DecompressedLayer:
    """The decompressed bytes of a layer, read and hashed ahead in a thread of their own while they are iterated over.

    After the last piece, `digest` ("sha256:…") and `size` are those of all of them.
    """

    def __init__(self, fd: int, *, compressed: bool) -> None:
        """Read from a descriptor's position on. Unless `compressed`, the bytes are taken as they are, whatever they
        look like; else their compression is told from how they begin."""
        self.size = 0
        self.digest = ""
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_WAITING)
        self._stopped = False
        self._thread = threading.Thread(target=self._produce, args=(fd, compressed), name="decompress", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        """Stop reading ahead, if the end was not reached."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                pass
        self._thread.join()

    def _produce(self, fd: int, compressed: bool) -> None:
        try:
            hasher = digests.hasher()
            for piece in _decompressed(fd, compressed):
                if self._stopped:
                    return
                hasher.update(piece)
                self.size += len(piece)
                self._queue.put(piece)
            self.digest = "sha256:" + hasher.hexdigest()
            self._queue.put(None)
        except BaseException as error:
            self._queue.put(error)


def _decompressed(fd: int, compressed: bool) -> Iterator[bytes]:
    head = os.read(fd, _PIECE)
    return decompressed(_pieces(fd, head), detect(head) if compressed else NONE)


def decompressed(pieces: Iterator[bytes], kind: str) -> Iterator[bytes]:
    """Yield the bytes that pieces of compressed ones stand for, some 1 MiB at a time; as they are for NONE.

    Raises ArchiveError when they are damaged or end early.
    """
    if kind == GZIP:
        return _gunzip(pieces)
    if kind == ZSTD:
        return _unzstd(pieces)
    return pieces


def _pieces(fd: int, head: bytes) -> Iterator[bytes]:
    while head:
        yield head
        head = os.read(fd, _PIECE)


def _gunzip(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Members one after the other are one stream (RFC 1952, section 2.2)."""
    member: zlib._Decompress | None = None
    try:
        for piece in pieces:
            data = piece
            while data:
                if member is None:
                    member = zlib.decompressobj(wbits=31)
                output = member.decompress(data, _PIECE)
                if output:
                    yield output
                if member.eof:
                    data = member.unused_data
                    member = None
                else:
                    data = member.unconsumed_tail
            # What did not fit into the last output may still stand in the decoder although the input is used up.
            while member is not None and (output := member.decompress(b"", _PIECE)):
                yield output
    except zlib.error as error:
        raise ArchiveError(f"gzip: {error}") from None
    if member is not None:
        raise ArchiveError("gzip: unexpected end of data")


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor()
    frame: zstandard.ZstdDecompressionObj | None = None
    ready: list[bytes] = []
    length = 0
    try:
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), _ZSTD_PIECE):
                data: bytes | memoryview = view[at : at + _ZSTD_PIECE]
                while data:
                    if frame is None:
                        frame = decompressor.decompressobj()
                    output = frame.decompress(data)
                    if output:
                        ready.append(output)
                        length += len(output)
                    data = b""
                    if frame.eof:
                        data = frame.unused_data
                        frame = None
                if length >= _PIECE:
                    yield b"".join(ready)
                    ready.clear()
                    length = 0
    except zstandard.ZstdError as error:
        raise ArchiveError(f"zstd: {error}") from None
    if frame is not None:
        raise ArchiveError("zstd: unexpected end of data")
    if ready:
        yield b"".join(ready)


class CompressedLayer:
    """Takes the bytes of a layer and writes them, compressed, to a descriptor.

    The same bytes always give the same output, on any number of processors. `digest` and `size` are the output's,
    `uncompressed` is the digest of what went in; all are there after `finish`.
    """

    def __init__(self, fd: int, compression: str) -> None:
        self.digest = ""
        self.size = 0
        self.uncompressed = ""
        self._fd = fd
        self._plain = digests.hasher()
        self._output = digests.hasher()
        self._pending = bytearray()
        processors = len(os.sched_getaffinity(0))
        self._encoder: _Encoder
        if compression == GZIP:
            self._encoder = _GzipEncoder(processors)
        elif compression == ZSTD:
            self._encoder = _ZstdEncoder(processors)
        else:
            self._encoder = _Encoder()

    def write(self, data: bytes | memoryview) -> None:
        """Take more bytes. Raises OSError when the output cannot be written."""
        self._pending += data
        if len(self._pending) >= _PIECE:
            for start in range(0, len(self._pending) - _PIECE + 1, _PIECE):
                self._encode(bytes(self._pending[start : start + _PIECE]))
            del self._pending[: len(self._pending) // _PIECE * _PIECE]

    def finish(self) -> None:
        """Write what is left and the end of the compressed stream."""
        if self._pending:
            self._encode(bytes(self._pending))
        for output in self._encoder.finish():
            self._put(output)
        self.digest = "sha256:" + self._output.hexdigest()
        self.uncompressed = "sha256:" + self._plain.hexdigest()

    def _encode(self, piece: bytes) -> None:
        self._plain.update(piece)
        for output in self._encoder.encode(piece):
            self._put(output)

    def _put(self, output: bytes) -> None:
        self._output.update(output)
        self.size += len(output)
        rest = memoryview(output)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


class _Encoder:
    """Takes pieces of a fixed size (the last may be shorter) and returns what is to be written."""

    def encode(self, piece: bytes) -> Iterator[bytes]:
        yield piece

    def finish(self) -> Iterator[bytes]:
        return iter(())


#: zlib's window: how far back a match may reach.
_WINDOW = 32768


class _GzipEncoder(_Encoder):
    """One gzip member whose pieces are deflated side by side, each with the end of the one before as its dictionary.

    A piece ends at a byte boundary (Z_SYNC_FLUSH), so that the outputs joined are one deflate stream.
    """

    #: No file name and no time, so that equal layers are equal files; 255: unknown operating system.
    _HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    _LAST_BLOCK = b"\x03\x00"

    def __init__(self, processors: int) -> None:
        self._pool = ThreadPoolExecutor(processors, "gzip")
        self._waiting: deque[Future[bytes]] = deque()
        self._limit = 2 * processors
        self._dictionary = b""
        self._crc = 0
        self._size = 0
        self._started = False

    def encode(self, piece: bytes) -> Iterator[bytes]:
        yield from self._begin()
        self._crc = zlib.crc32(piece, self._crc)
        self._size += len(piece)
        self._waiting.append(self._pool.submit(_deflate, piece, self._dictionary))
        self._dictionary = piece[-_WINDOW:]
        if len(self._waiting) >= self._limit:
            yield self._waiting.popleft().result()

    def finish(self) -> Iterator[bytes]:
        yield from self._begin()
        while self._waiting:
            yield self._waiting.popleft().result()
        self._pool.shutdown()
        size = self._size & 0xFFFFFFFF
        yield self._LAST_BLOCK + self._crc.to_bytes(4, "little") + size.to_bytes(4, "little")

    def _begin(self) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            yield self._HEADER


def _deflate(piece: bytes, dictionary: bytes) -> bytes:
    make: Callable[..., zlib._Compress] = zlib.compressobj
    level, raw = 6, -15
    if dictionary:
        encoder = make(level, zlib.DEFLATED, raw, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY, dictionary)
    else:
        encoder = make(level, zlib.DEFLATED, raw)
    return encoder.compress(piece) + encoder.flush(zlib.Z_SYNC_FLUSH)


class _ZstdEncoder(_Encoder):
    def __init__(self, processors: int) -> None:
        # Always with threads, if only one: without any, the output would differ.
        compressor = zstandard.ZstdCompressor(level=3, threads=max(processors, 1), write_checksum=True)
        self._encoder = compressor.compressobj()

    def encode(self, piece: bytes) -> Iterator[bytes]:
        yield self._encoder.compress(piece)

    def finish(self) -> Iterator[bytes]:
        yield self._encoder.flush()

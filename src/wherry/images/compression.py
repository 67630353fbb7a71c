"""The compressions of layers: gzip (RFC 1952) by isal or zlib, Zstandard (RFC 8878) by zstandard, and none."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zstandard

from wherry.images.tar import ArchiveError, Stream
from wherry.oci import digest as digests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future

_zlib: Any
try:
    # Twice as fast as zlib; there are no wheels of it for every architecture.
    from isal import isal_zlib

    _zlib = isal_zlib
except ImportError:
    _zlib = zlib

GZIP = "gzip"
ZSTD = "zstd"
NONE = ""

_GZIP_MAGIC = b"\x1f\x8b\x08"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after one octet of 0x50 to 0x5f

#: How many octets tell the compression.
MAGIC_SIZE = 4

#: What is compressed at a time: the size is part of what a layer's digest depends on.
_PIECE = 1 << 20
#: What comes out of a decoder at a time, about.
OUTPUT = 256 << 10


def detect(head: bytes) -> str:
    """Tell the compression from the first octets of a stream."""
    if head.startswith(_GZIP_MAGIC):
        return GZIP
    if head.startswith(_ZSTD_MAGIC) or (head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50):
        return ZSTD
    return NONE


def decompressed(pieces: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """Yield the bytes that pieces of compressed ones stand for, some 256 KiB at a time; as they are for NONE.

    Raises ArchiveError when they are damaged or end early.
    """
    if kind == GZIP:
        return _gunzip(pieces)
    if kind == ZSTD:
        return _unzstd(pieces)
    return iter(pieces)


def _gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Members one after the other are one stream (RFC 1952, section 2.2)."""
    member: Any = None
    try:
        for piece in pieces:
            data = piece
            while data:
                if member is None:
                    member = _zlib.decompressobj(wbits=31)
                output = member.decompress(data, OUTPUT)
                if output:
                    yield output
                if member.eof:
                    data = member.unused_data
                    member = None
                else:
                    data = member.unconsumed_tail
            # What did not fit into the last output may still stand in the decoder although the input is used up.
            while member is not None and (output := member.decompress(b"", OUTPUT)):
                yield output
    except _zlib.error as error:
        raise ArchiveError(f"gzip: {error}") from None
    if member is not None:
        raise ArchiveError("gzip: unexpected end of data")


def _unzstd(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Frames one after the other are one stream (RFC 8878, section 3.1)."""
    stream = Stream(pieces)
    while magic := stream.read(4):
        if magic[1:] == _ZSTD_SKIPPABLE and magic[0] & 0xF0 == 0x50:
            stream.copy(None, int.from_bytes(_exactly(stream, 4), "little"))
        else:
            yield from _unzstd_frame(stream, magic)


def _unzstd_frame(stream: Stream, magic: bytes) -> Iterator[bytes]:
    """Decode one frame, a block at a time: four octets may stand for 128 KiB, but one block for no more (3.1.1.2)."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    descriptor = _exactly(stream, 1)
    single_segment = descriptor[0] >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor[0] >> 6]
    header = _exactly(stream, 1 - single_segment + (0, 1, 2, 4)[descriptor[0] & 3] + content_size)
    try:
        output = frame.decompress(magic + descriptor + header)
        last = False
        while not last:
            block = _exactly(stream, 3)
            word = int.from_bytes(block, "little")
            last = bool(word & 1)
            of_one_octet = word >> 1 & 3 == 1
            output += frame.decompress(block + _exactly(stream, 1 if of_one_octet else word >> 3))
            if len(output) >= OUTPUT // 2:
                yield output
                output = b""
        if descriptor[0] & 4:
            output += frame.decompress(_exactly(stream, 4))
    except zstandard.ZstdError as error:
        raise ArchiveError(f"zstd: {error}") from None
    if output:
        yield output


def _exactly(stream: Stream, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise ArchiveError("zstd: unexpected end of data")
    return data


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
        from concurrent.futures import ThreadPoolExecutor

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

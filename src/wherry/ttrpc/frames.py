"""ttrpc frames: bytes in, frames out. No I/O.

A frame is a ten-byte header (big-endian: uint32 length of the data, uint32 stream id, uint8 type, uint8 flags) and
data.
"""

from __future__ import annotations

from struct import Struct

from wherry.errors import ResourceExhausted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = Struct(">IIBB")

#: The protocol's own limit: a receiver discards a longer frame and answers its stream RESOURCE_EXHAUSTED.
MAX_DATA = 4 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

REMOTE_CLOSED = 0x01
REMOTE_OPEN = 0x02
NO_DATA = 0x04


class Frame:
    """One frame. `data` is None if it was longer than MAX_DATA and has been discarded; `length` tells how long."""

    __slots__ = ("data", "flags", "length", "stream", "type")

    def __init__(self, stream: int, type_: int, flags: int, data: bytes | None, length: int) -> None:
        self.stream = stream
        self.type = type_
        self.flags = flags
        self.data = data
        self.length = length

    def __repr__(self) -> str:
        return f"Frame(stream={self.stream}, type={self.type}, flags={self.flags:#x}, length={self.length})"


class FrameParser:
    """Cuts a stream of bytes into frames, however the bytes arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._discarding = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes and yield the frames that they complete. Exhaust the iterator before the next call."""
        if self._discarding:
            dropped = min(self._discarding, len(data))
            self._discarding -= dropped
            data = data[dropped:]
        self._buffer += data
        buffer = self._buffer
        position, end = 0, len(buffer)
        try:
            while end - position >= HEADER.size:
                length, stream, type_, flags = HEADER.unpack_from(buffer, position)
                start = position + HEADER.size
                if length > MAX_DATA:
                    position = min(start + length, end)
                    self._discarding = start + length - position
                    yield Frame(stream, type_, flags, None, length)
                    continue
                if end - start < length:
                    break
                position = start + length
                yield Frame(stream, type_, flags, bytes(memoryview(buffer)[start:position]), length)
        finally:
            del buffer[:position]

    @property
    def idle(self) -> bool:
        """Whether no frame is half received: an end of the connection now loses nothing."""
        return not self._buffer and not self._discarding


def encode(stream: int, type_: int, flags: int, data: bytes) -> bytes:
    """Return a frame's bytes. ResourceExhausted if the data is over the protocol's limit."""
    if len(data) > MAX_DATA:
        raise ResourceExhausted(f"message length {len(data)} exceed maximum message size of {MAX_DATA}")
    return HEADER.pack(len(data), stream, type_, flags) + data

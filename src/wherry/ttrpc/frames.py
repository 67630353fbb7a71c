"""ttrpc frames: bytes in, frames out. No I/O.

A frame is a ten-byte header (big-endian: uint32 length of the data, uint32 stream id, uint8 type, uint8 flags) and
data. Any ten bytes are a header, so nothing here can be malformed: what a frame means is connection.py's.
"""

from __future__ import annotations

from struct import Struct

from wherry.errors import ResourceExhausted

HEADER = Struct(">IIBB")

#: The protocol's own limit on a frame's data, in bytes. A receiver discards a longer frame and answers its stream
#: RESOURCE_EXHAUSTED, so sending one is an error before it is sent.
MAX_DATA = 4 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

REMOTE_CLOSED = 0x01
REMOTE_OPEN = 0x02
NO_DATA = 0x04


class Frame:
    """One frame. `data` is None if it is longer than MAX_DATA and is being discarded; `length` tells how long."""

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
    """Cuts a stream of bytes into frames, however the bytes arrive. Holds at most one frame and what came with it."""

    def __init__(self) -> None:
        # A frame that arrives in many pieces is put together once, when its last byte is here.
        self._pieces: list[bytes] = []
        self._missing = 0
        self._discarding = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes and return the frames that they complete, and those too long of which the header is complete."""
        if len(data) < self._missing:
            self._pieces.append(data)
            self._missing -= len(data)
            return []
        if self._pieces:
            self._pieces.append(data)
            data = b"".join(self._pieces)
            self._pieces.clear()
        self._missing = 0
        if self._discarding:
            dropped = min(self._discarding, len(data))
            self._discarding -= dropped
            data = data[dropped:]
        frames = []
        position, end = 0, len(data)
        while end - position >= HEADER.size:
            length, stream, type_, flags = HEADER.unpack_from(data, position)
            start = position + HEADER.size
            if length > MAX_DATA:
                position = min(start + length, end)
                self._discarding = start + length - position
                frames.append(Frame(stream, type_, flags, None, length))
                continue
            if end - start < length:
                self._missing = start + length - end
                break
            position = start + length
            frames.append(Frame(stream, type_, flags, data[start:position], length))
        if position < end:
            self._pieces.append(data[position:])
            self._missing = self._missing or HEADER.size - (end - position)
        return frames


def encode(stream: int, type_: int, flags: int, data: bytes) -> bytes:
    """Return a frame's bytes. ResourceExhausted if the data is over the protocol's limit."""
    if len(data) > MAX_DATA:
        raise ResourceExhausted(f"message length {len(data)} exceed maximum message size of {MAX_DATA}")
    return HEADER.pack(len(data), stream, type_, flags) + data

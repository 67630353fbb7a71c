"""Reading tar archives: ustar, PAX, GNU and old V7, sparse files of every kind. Pure parsing over a byte stream.

The formats are those of pax(1) (POSIX.1-2017, ustar and pax interchange format) and GNU tar's manual ("Basic Tar
Format", "Sparse Formats"). What Go's archive/tar takes this takes: a layer which containerd applies applies here.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator

from wherry.errors import InvalidArgument

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)

REGULAR = b"0"
LINK = b"1"
SYMLINK = b"2"
CHARACTER = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
CONTIGUOUS = b"7"

_OLD_REGULAR = b"\0"
PAX = b"x"
_SUN_PAX = b"X"
_PAX_GLOBAL = b"g"
_GNU_LONG_NAME = b"L"
_GNU_LONG_LINK = b"K"
_GNU_SPARSE = b"S"
_EXTENDED = frozenset((PAX, _SUN_PAX, _PAX_GLOBAL, _GNU_LONG_NAME, _GNU_LONG_LINK))
_WITHOUT_BODY = frozenset((LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))

#: What one entry may have by way of extended header or long name; Go's reader has the same limit.
_MAX_EXTENDED = 1 << 20
#: Fragments of a sparse file, so that a map cannot fill the memory.
_MAX_FRAGMENTS = 1 << 18

_XATTR = b"SCHILY.xattr."

# name mode uid gid size mtime checksum type linkname magic+version uname gname devmajor devminor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")


class ArchiveError(InvalidArgument):
    """The bytes are no tar archive, or a damaged one."""


class Stream:
    """The bytes of an archive, chunk after chunk."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0

    def _more(self) -> bool:
        self._chunk = b""
        self._at = 0
        for chunk in self._chunks:
            if chunk:
                self._chunk = chunk
                break
        self._view = memoryview(self._chunk)
        return bool(self._chunk)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes; fewer only at the end."""
        end = self._at + size
        if end <= len(self._chunk):
            data = self._chunk[self._at : end]
            self._at = end
            return data
        pieces = []
        while size:
            if self._at == len(self._chunk) and not self._more():
                break
            piece = self._chunk[self._at : self._at + size]
            self._at += len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def copy(self, fd: int | None, size: int) -> None:
        """Write the next `size` bytes to a descriptor, or skip them. ArchiveError if they end early; OSError."""
        while size:
            if self._at == len(self._chunk) and not self._more():
                raise ArchiveError("unexpected end of archive")
            rest = self._view[self._at : self._at + size]
            # Straight from the decoder's output. Less may be written than asked for.
            length = len(rest) if fd is None else os.write(fd, rest)
            self._at += length
            size -= length

    def drain(self) -> None:
        """Skip all that is left."""
        while self._more():
            pass


class Entry:
    """One member of an archive. Names are bytes as they stand, times are nanoseconds."""

    __slots__ = (
        "atime",
        "gid",
        "linkname",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "size",
        "sparse",
        "type",
        "uid",
        "xattrs",
    )

    name: bytes
    #: One of the constants of this module; whatever else stands in the archive is left as it is.
    type: bytes
    #: Permission bits, set-id and sticky bits included.
    mode: int
    uid: int
    gid: int
    #: Bytes of the file, holes included.
    size: int
    mtime: int
    #: 0 if the archive does not say.
    atime: int
    linkname: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    #: (offset, length) of the parts that have data, or None.
    sparse: list[tuple[int, int]] | None


class Reader:
    """Iterates over an archive's entries. A body not copied by then is skipped."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._body = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def copy_body(self, entry: Entry, fd: int) -> None:
        """Write the current entry's data to a new, empty file. Raises ArchiveError or OSError."""
        if entry.sparse is None:
            self._stream.copy(fd, self._take(self._body))
            return
        for offset, length in entry.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            self._stream.copy(fd, self._take(length))
        os.ftruncate(fd, entry.size)

    def read_body(self, size: int) -> bytes:
        """Return the next bytes of the current entry's data as they stand in the archive, at most `size` of them; none
        at their end. Raises ArchiveError if the archive ends early.
        """
        wanted = self._take(min(size, self._body))
        data = self._stream.read(wanted)
        if len(data) < wanted:
            raise ArchiveError("unexpected end of archive")
        return data

    def _take(self, size: int) -> int:
        if size > self._body:
            raise ArchiveError("sparse map exceeds the file's data")
        self._body -= size
        return size

    def _next(self) -> Entry | None:
        if self._body:
            self._stream.copy(None, self._body)
        if self._padding:
            # Some writers (umoci insert) leave out all that should follow the last body: that is the end, as in Go.
            self._stream.read(self._padding)
        self._body = self._padding = 0
        extended: list[tuple[bytes, bytes]] = []
        long_name: bytes | None = None
        long_link: bytes | None = None
        while True:
            block = self._read_header()
            if block is None:
                return None
            entry, size = _parse_header(block)
            kind = entry.type
            if kind in (PAX, _SUN_PAX):
                extended = list(_parse_records(self._read_extended(size)))
            elif kind == _PAX_GLOBAL:
                self._read_extended(size)  # as containerd: what is said for all entries is ignored
            elif kind == _GNU_LONG_NAME:
                long_name = self._read_extended(size).split(b"\0", 1)[0]
            elif kind == _GNU_LONG_LINK:
                long_link = self._read_extended(size).split(b"\0", 1)[0]
            else:
                break
        if long_name is not None:
            entry.name = long_name
        if long_link is not None:
            entry.linkname = long_link
        sparse: _Sparse | None = None
        if extended:
            sparse = _Sparse()
            size = _apply_records(entry, extended, size, sparse)
        if kind in (_OLD_REGULAR, CONTIGUOUS):
            entry.type = DIRECTORY if kind == _OLD_REGULAR and entry.name.endswith(b"/") else REGULAR
        entry.size = size = 0 if entry.type in _WITHOUT_BODY else size
        self._body = size
        self._padding = -size % BLOCK
        if kind == _GNU_SPARSE:
            entry.type = REGULAR
            sparse = sparse or _Sparse()
            self._read_old_sparse(block, sparse)
        if sparse is not None and sparse.present and entry.type == REGULAR:
            self._finish_sparse(entry, sparse)
        return entry

    def _read_header(self) -> bytes | None:
        block = self._stream.read(BLOCK)
        if block == _ZERO_BLOCK:
            second = self._stream.read(BLOCK)
            if second in (_ZERO_BLOCK, b""):
                return None
            raise ArchiveError("invalid tar header")
        if not block:
            return None
        if len(block) < BLOCK:
            raise ArchiveError("unexpected end of archive")
        return block

    def _read_extended(self, size: int) -> bytes:
        if size > _MAX_EXTENDED:
            raise ArchiveError(f"extended header of {size} bytes exceeds {_MAX_EXTENDED}")
        data = self._stream.read(size)
        if len(data) < size:
            raise ArchiveError("unexpected end of archive")
        self._stream.copy(None, -size % BLOCK)
        return data

    def _read_old_sparse(self, block: bytes, sparse: _Sparse) -> None:
        sparse.present = True
        sparse.size = _number(block[483:495])
        sparse.fragments = []
        table, more = block[386:482], block[482]
        while True:
            for at in range(0, len(table), 24):
                if table[at] == 0:
                    break
                sparse.fragments.append((_number(table[at : at + 12]), _number(table[at + 12 : at + 24])))
            if not more:
                return
            if len(sparse.fragments) > _MAX_FRAGMENTS:
                raise ArchiveError("too many fragments in a sparse file")
            extension = self._stream.read(BLOCK)
            if len(extension) < BLOCK:
                raise ArchiveError("unexpected end of archive")
            table, more = extension[:504], extension[504]

    def _finish_sparse(self, entry: Entry, sparse: _Sparse) -> None:
        fragments = sparse.fragments
        if sparse.in_body:
            fragments = self._read_sparse_map()
        if sparse.size is None or fragments is None:
            raise ArchiveError("incomplete description of a sparse file")
        end = 0
        for offset, length in fragments:
            if offset < end or length < 0 or offset + length > sparse.size:
                raise ArchiveError("invalid map of a sparse file")
            end = offset + length
        if sum(length for _, length in fragments) != self._body:
            raise ArchiveError("sparse map and data differ in length")
        entry.size = sparse.size
        entry.sparse = fragments

    def _read_sparse_map(self) -> list[tuple[int, int]]:
        """PAX sparse format 1.0: decimal numbers, one a line, in whole blocks before the data."""
        numbers: list[int] = []
        wanted = 1
        rest = b""
        while len(numbers) < wanted:
            block = self._stream.read(self._take(BLOCK))
            if len(block) < BLOCK:
                raise ArchiveError("unexpected end of archive")
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > BLOCK:
                raise ArchiveError("invalid map of a sparse file")
            for line in lines[: wanted - len(numbers) if numbers else None]:
                numbers.append(_decimal(line))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
            if wanted > 2 * _MAX_FRAGMENTS:
                raise ArchiveError("too many fragments in a sparse file")
        numbers = numbers[1:wanted]
        return list(zip(numbers[::2], numbers[1::2], strict=True))


class _Sparse:
    """What the headers say of holes, in any of the four formats."""

    __slots__ = ("fragments", "in_body", "present", "size")

    def __init__(self) -> None:
        self.present = False
        self.in_body = False
        self.size: int | None = None
        self.fragments: list[tuple[int, int]] | None = None


def _parse_header(block: bytes) -> tuple[Entry, int]:
    name, mode, uid, gid, size, mtime, checksum, kind, linkname, magic, _, _, major, minor, prefix = _HEADER.unpack(
        block
    )
    if not _checksum_agrees(block, _number(checksum)):
        raise ArchiveError("invalid tar header")
    entry = Entry()
    entry.name = name.split(b"\0", 1)[0]
    if magic == b"ustar\x0000" and prefix[0]:
        # The ustar magic with "tar\0" at the end is star's, whose prefix is shorter.
        if block[508:] == b"tar\0":
            prefix = prefix[:131]
        entry.name = prefix.split(b"\0", 1)[0] + b"/" + entry.name
    entry.type = kind
    length = _number(size)
    if length < 0:
        raise ArchiveError("invalid tar header")
    if kind in _EXTENDED:
        return entry, length
    entry.mode = _number(mode) & 0o7777
    entry.uid = _number(uid)
    entry.gid = _number(gid)
    entry.mtime = _number(mtime) * 1_000_000_000
    entry.atime = 0
    entry.linkname = linkname.split(b"\0", 1)[0]
    if kind in (CHARACTER, BLOCK_DEVICE):
        entry.major = _number(major)
        entry.minor = _number(minor)
    else:
        entry.major = entry.minor = 0
    entry.xattrs = {}
    entry.sparse = None
    return entry, length


def _checksum_agrees(block: bytes, checksum: int) -> bool:
    if block.isascii() and checksum == _sum_of_ascii(block) - _sum_of_ascii(block[148:156]) + 8 * 0x20:
        return True
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if unsigned == checksum:
        return True
    # Some old writers summed signed characters.
    high = sum(1 for octet in block[:148] + block[156:] if octet > 127)
    return unsigned - 256 * high == checksum


def _sum_of_ascii(octets: bytes) -> int:
    # The lower half of Adler-32 is one more than their sum modulo 65521, which a block's is below if none exceeds 127.
    return (zlib.adler32(octets) & 0xFFFF) - 1


@functools.lru_cache(1024)  # the same owners and modes again and again
def _number(field: bytes) -> int:
    """Octal digits, or base 256 in two's complement if the top bit is set (GNU)."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field) - 1
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = field.strip(b" \0").split(b"\0", 1)[0]
    if not digits:
        return 0
    if not digits.isdigit():
        raise ArchiveError("invalid tar header")
    try:
        return int(digits, 8)
    except ValueError:
        raise ArchiveError("invalid tar header") from None


def _decimal(digits: bytes) -> int:
    # int() alone would also take signs, blanks and underscores.
    if not digits.isdigit() or len(digits) > 19:
        raise ArchiveError("invalid tar header")
    return int(digits)


def _parse_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keyword and value of each "LENGTH KEYWORD=VALUE\\n"."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            if not data[at:].strip(b"\0"):
                return
            raise ArchiveError("invalid tar header")
        end = at + _decimal(data[at:space])
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise ArchiveError("invalid tar header")
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not keyword or b"\0" in keyword:
            raise ArchiveError("invalid tar header")
        yield keyword, value
        at = end


def _apply_records(entry: Entry, records: list[tuple[bytes, bytes]], size: int, sparse: _Sparse) -> int:
    """Put an extended header's words over the header's own; return the size of the body."""
    version = [b"", b""]
    offsets: list[int] = []
    lengths: list[int] = []
    for keyword, value in records:
        if keyword.startswith(_XATTR):
            entry.xattrs[keyword[len(_XATTR) :]] = value
        elif keyword.startswith(b"GNU.sparse."):
            sparse.present = True
            field = keyword[11:]
            if field == b"major":
                version[0] = value
            elif field == b"minor":
                version[1] = value
            elif field == b"name":
                entry.name = _text(value)
            elif field in (b"size", b"realsize"):
                sparse.size = _decimal(value)
            elif field == b"offset":
                offsets.append(_decimal(value))
            elif field == b"numbytes":
                lengths.append(_decimal(value))
            elif field == b"map":
                numbers = [_decimal(number) for number in value.split(b",")] if value else []
                offsets, lengths = numbers[::2], numbers[1::2]
        elif not value:
            continue  # an empty value takes back a global header's, and those are not looked at
        elif keyword == b"path":
            if not any(other == b"GNU.sparse.name" for other, _ in records):
                entry.name = _text(value)
        elif keyword == b"linkpath":
            entry.linkname = _text(value)
        elif keyword == b"size":
            size = _decimal(value)
        elif keyword == b"uid":
            entry.uid = _decimal(value)
        elif keyword == b"gid":
            entry.gid = _decimal(value)
        elif keyword == b"mtime":
            entry.mtime = _time(value)
        elif keyword == b"atime":
            entry.atime = _time(value)
    if version == [b"1", b"0"]:
        sparse.in_body = True
    elif sparse.present:
        if version not in ([b"", b""], [b"0", b"0"], [b"0", b"1"]):
            raise ArchiveError(f"unknown sparse format {version[0]!r}.{version[1]!r}")
        if len(offsets) != len(lengths) or len(offsets) > _MAX_FRAGMENTS:
            raise ArchiveError("invalid map of a sparse file")
        sparse.fragments = list(zip(offsets, lengths, strict=True))
    return size


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise ArchiveError("invalid tar header")
    return value


def _time(value: bytes) -> int:
    """Decimal seconds with any number of decimals, as nanoseconds."""
    negative = value.startswith(b"-")
    seconds, _, fraction = value[negative:].partition(b".")
    nanoseconds = _decimal(seconds or b"0") * 1_000_000_000
    if fraction:
        nanoseconds += _decimal(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if negative else nanoseconds

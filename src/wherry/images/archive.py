"""Writing tar archives: ustar headers, with PAX extended headers (pax(1), POSIX.1-2017) where ustar has no room."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from wherry.images import tar
from wherry.images.tar import BLOCK

_PIECE = 1 << 20
_MAX_OCTAL_ID = 0o7777777
_MAX_OCTAL_12 = 0o77777777777
_MAX_NAME = 100
_NANOSECONDS = 1_000_000_000

_TYPES = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


class Writer:
    """Makes the bytes of an archive and hands them to `write`. Equal input gives equal bytes: no access time, no
    change time, no user or group names."""

    def __init__(self, write: Callable[[bytes], None], *, latest: int | None = None) -> None:
        """No modification time in the archive is later than `latest`, in nanoseconds."""
        self._write = write
        self._latest = latest

    def add(
        self,
        name: bytes,
        seen: os.stat_result,
        *,
        xattrs: dict[str, bytes] | None = None,
        linkname: bytes = b"",
        hard_link: bool = False,
        source: int | None = None,
    ) -> None:
        """Add what lstat saw: with the data of the descriptor `source` for a regular file, as a link to `linkname` for
        a symbolic or hard one. Raises OSError, also if the file has become shorter meanwhile."""
        kind = tar.LINK if hard_link else _TYPES[stat.S_IFMT(seen.st_mode)]
        if kind == tar.DIRECTORY:
            name += b"/"
        size = seen.st_size if kind == tar.REGULAR else 0
        device = seen.st_rdev if kind in (tar.CHARACTER, tar.BLOCK_DEVICE) else 0
        self._add_header(
            name, kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, size, seen.st_mtime_ns, linkname, device,
            xattrs or {},
        )  # fmt: skip
        if size:
            assert source is not None
            self._add_data(source, size)

    def add_empty_file(self, name: bytes) -> None:
        """Add an empty file of root's without permissions, from the epoch: a whiteout."""
        self._add_header(name, tar.REGULAR, 0, 0, 0, 0, 0, b"", 0, {})

    def add_directory(self, name: bytes, mode: int) -> None:
        """Add a directory of root's, from the epoch. Its name ends in a slash."""
        self._add_header(name, tar.DIRECTORY, mode, 0, 0, 0, 0, b"", 0, {})

    def add_header(self, name: bytes, mode: int, size: int) -> None:
        """Add the header of a file of root's, from the epoch; the caller writes its data and padding himself."""
        self._add_header(name, tar.REGULAR, mode, 0, 0, size, 0, b"", 0, {})

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * BLOCK))

    def _add_data(self, source: int, size: int) -> None:
        left = size
        while left:
            data = os.read(source, min(_PIECE, left))
            if not data:
                raise OSError(f"file became shorter while it was read, by {left} of {size} bytes")
            self._write(data)
            left -= len(data)
        self._write(bytes(-size % BLOCK))

    def _add_header(
        self,
        name: bytes,
        kind: bytes,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime: int,
        linkname: bytes,
        device: int,
        xattrs: dict[str, bytes],
    ) -> None:
        if self._latest is not None:
            mtime = min(mtime, self._latest)
        records: list[tuple[bytes, bytes]] = []
        if len(name) > _MAX_NAME or not name.isascii():
            records.append((b"path", name))
        if len(linkname) > _MAX_NAME or not linkname.isascii():
            records.append((b"linkpath", linkname))
        if size > _MAX_OCTAL_12:
            records.append((b"size", b"%d" % size))
        if uid > _MAX_OCTAL_ID:
            records.append((b"uid", b"%d" % uid))
        if gid > _MAX_OCTAL_ID:
            records.append((b"gid", b"%d" % gid))
        seconds, fraction = divmod(mtime, _NANOSECONDS)
        if fraction or not 0 <= seconds <= _MAX_OCTAL_12:
            records.append((b"mtime", _decimal_time(mtime)))
        records += [(b"SCHILY.xattr." + os.fsencode(key), value) for key, value in sorted(xattrs.items())]
        if records:
            body = b"".join(_record(keyword, value) for keyword, value in records)
            short = b"PaxHeaders.0/" + os.path.basename(name.rstrip(b"/"))[:80]
            self._write(_header(short, tar.PAX, 0o644, 0, 0, len(body), 0, b"", 0))
            self._write(body + bytes(-len(body) % BLOCK))
        self._write(
            _header(
                name[:_MAX_NAME],
                kind,
                mode,
                uid if uid <= _MAX_OCTAL_ID else 0,
                gid if gid <= _MAX_OCTAL_ID else 0,
                size if size <= _MAX_OCTAL_12 else 0,
                seconds if 0 <= seconds <= _MAX_OCTAL_12 else 0,
                linkname[:_MAX_NAME],
                device,
            )
        )


def _header(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, linkname: bytes, device: int
) -> bytes:
    start = b"%-s%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, uid, gid, size, mtime)
    major, minor = os.major(device), os.minor(device)
    end = kind + linkname.ljust(100, b"\0") + b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (major, minor) + bytes(167)
    checksum = sum(start) + sum(end) + 8 * 0x20
    return start + b"%06o\0 " % checksum + end


def _record(keyword: bytes, value: bytes) -> bytes:
    """LENGTH KEYWORD=VALUE and a newline, where the length counts its own digits."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _decimal_time(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(abs(nanoseconds), _NANOSECONDS)
    sign = b"-" if nanoseconds < 0 else b""
    return b"%s%d.%09d" % (sign, seconds, fraction)

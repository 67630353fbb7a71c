"""Image archives, read once from beginning to end: a file or a pipe, plain or compressed, or a layout's directory."""

from __future__ import annotations

import os
import posixpath

from wherry.client.content import PIECE
from wherry.errors import InvalidArgument
from wherry.images.compression import decompressed, detect
from wherry.images.tar import LINK, REGULAR, SYMLINK, ArchiveError, Reader, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Protocol

    class Members(Protocol):
        """What both kinds of archive are: members one after the other, each to be read before the next is asked for."""

        def __iter__(self) -> Iterator[Member]: ...

        def pieces(self) -> Iterator[bytes]:
            """Yield the data of the member that came last."""


_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"


class Member:
    """A regular file of an archive, or a link to one: then `link` is that one's name."""

    __slots__ = ("link", "name", "size")

    def __init__(self, name: str, size: int, link: str = "") -> None:
        self.name = name
        self.size = size
        self.link = link


class TarMembers:
    """The files and links of a tar archive, compressed in any usual way or not at all."""

    def __init__(self, file: BinaryIO) -> None:
        """Read from where a file stands. What is damaged raises ArchiveError, here and later."""
        self._reader = Reader(Stream(uncompressed(file)))

    def __iter__(self) -> Iterator[Member]:
        for entry in self._reader:
            name = _normal(entry.name)
            if entry.type == REGULAR:
                if entry.sparse is not None:
                    raise ArchiveError(f"{name}: a sparse file")
                yield Member(name, entry.size)
            elif entry.type == SYMLINK:
                target = entry.linkname.decode(errors="surrogateescape")
                yield Member(name, 0, posixpath.normpath(posixpath.join(posixpath.dirname(name), target)))
            elif entry.type == LINK:
                yield Member(name, 0, _normal(entry.linkname))

    def pieces(self) -> Iterator[bytes]:
        """Yield the data of the member that came last."""
        while piece := self._reader.read_body(PIECE):
            yield piece


def _normal(name: bytes) -> str:
    return posixpath.normpath(name.decode(errors="surrogateescape")).lstrip("/")


class DirectoryMembers:
    """The files of an OCI image layout that is a directory, as skopeo's and umoci's ``oci:`` are."""

    def __init__(self, path: str) -> None:
        """InvalidArgument unless the directory has the file that marks a layout."""
        self._path = path
        self._current = ""
        if not os.path.isfile(os.path.join(path, "oci-layout")):
            raise InvalidArgument(f"{path}: not an OCI image layout: it has no file oci-layout")

    def __iter__(self) -> Iterator[Member]:
        for name in ("oci-layout", "index.json"):
            yield from self._member(name)
        for directory, directories, files in os.walk(os.path.join(self._path, "blobs"), onerror=_raise):
            directories.sort()
            for name in sorted(files):
                yield from self._member(os.path.relpath(os.path.join(directory, name), self._path))

    def _member(self, name: str) -> Iterator[Member]:
        self._current = os.path.join(self._path, name)
        if os.path.isfile(self._current):
            yield Member(name, os.stat(self._current).st_size)

    def pieces(self) -> Iterator[bytes]:
        """Yield the data of the member that came last. OSError."""
        with open(self._current, "rb") as file:
            yield from pieces(file)


def _raise(error: OSError) -> None:
    raise error


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's bytes from where it stands. OSError."""
    while piece := file.read(PIECE):
        yield piece


def uncompressed(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed if they begin as gzip, zstd, bzip2 or xz do. ArchiveError if damaged."""
    beginning = peek(file, len(_XZ))
    whole = rejoined(beginning, file)
    if beginning.startswith(_BZIP2):
        return _bunzip2(whole)
    if beginning.startswith(_XZ):
        return _unxz(whole)
    return decompressed(pieces(whole), detect(beginning))


def peek(file: BinaryIO, size: int) -> bytes:
    """Return a file's first bytes, `size` of them unless it is shorter; a pipe gives them in any number of parts."""
    beginning = b""
    while len(beginning) < size and (more := file.read(size - len(beginning))):
        beginning += more
    return beginning


def rejoined(beginning: bytes, file: BinaryIO) -> BinaryIO:
    """Return what a file was before its beginning was read; it can only be read, forward."""
    return _Rejoined(beginning, file)  # type: ignore[return-value]


class _Rejoined:
    """A file whose first bytes were read already."""

    def __init__(self, beginning: bytes, file: BinaryIO) -> None:
        self._beginning = beginning
        self._file = file

    def read(self, size: int) -> bytes:
        if not self._beginning:
            return self._file.read(size)
        data, self._beginning = self._beginning[:size], self._beginning[size:]
        return data


def _bunzip2(file: BinaryIO) -> Iterator[bytes]:
    import bz2

    try:
        with bz2.BZ2File(file) as stream:
            yield from pieces(stream)  # type: ignore[arg-type]
    except (OSError, EOFError) as error:
        raise ArchiveError(f"bzip2: {error}") from None


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    import lzma

    try:
        with lzma.LZMAFile(file) as stream:
            yield from pieces(stream)  # type: ignore[arg-type]
    except (lzma.LZMAError, EOFError) as error:
        raise ArchiveError(f"xz: {error}") from None

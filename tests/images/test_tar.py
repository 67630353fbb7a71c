"""The tar reader and writer alone: any archive in any pieces, and any damage."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.images.trees import archive, entry
from wherry.images import tar
from wherry.images.archive import Writer
from wherry.images.tar import ArchiveError, Reader, Stream


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def read(data: bytes, size: int = 1 << 20) -> list[tuple[tar.Entry, bytes]]:
    reader = Reader(Stream(pieces(data, size)))
    found = []
    for each in reader:
        with tempfile.TemporaryFile() as file:
            reader.copy_body(each, file.fileno())
            file.seek(0)
            found.append((each, file.read()))
    return found


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=150).filter(
    lambda name: name.strip("/") not in ("", ".") and not name.endswith("/")
)
files = st.tuples(
    names,
    st.binary(max_size=2000),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(-(10**6), 10**11),
    st.dictionaries(st.sampled_from(["user.a", "user.b c", "security.capability"]), st.text(max_size=20), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(
    made=st.lists(files, max_size=6),
    size=st.integers(1, 1500),
    format_=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_pythons_archives_in_any_pieces(
    made: list[tuple[str, bytes, int, int, int, dict[str, str]]], size: int, format_: int
) -> None:
    entries = []
    for name, data, mode, uid, mtime, xattrs in made:
        headers = (
            {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()} if format_ == tarfile.PAX_FORMAT else {}
        )
        entries.append(entry(name, data=data, mode=mode, uid=uid, gid=uid, mtime=mtime, pax_headers=headers))
    found = read(archive(entries, format_), size)
    assert [(each.name, data, each.mode, each.uid, each.gid, each.mtime, each.xattrs) for each, data in found] == [
        (
            # tarfile leaves slashes at the start out of names.
            info.name.encode(),
            data,
            info.mode,
            info.uid,
            info.gid,
            info.mtime * 10**9,
            {key[13:].encode(): value.encode() for key, value in info.pax_headers.items()},
        )
        for info, data in entries
    ]


VALID = archive(
    [
        entry("d", tarfile.DIRTYPE),
        entry("n" * 150, data=b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b"}, uid=5_000_000),
        entry("l", tarfile.SYMTYPE, linkname="t" * 150),
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.integers(0, len(VALID)),
)
def test_damage_is_one_clean_error_or_none(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    try:
        read(bytes(data[:end]))
    except ArchiveError:
        pass


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=3000))
def test_rubbish_with_a_right_checksum(data: bytes) -> None:
    block = bytearray(data[:512].ljust(512, b"\0"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    try:
        read(bytes(block) + data[512:])
    except ArchiveError:
        pass


@pytest.mark.parametrize(
    "records",
    [
        b"11 path=a",  # no newline
        b"5 a=b\n6 c=d\n",  # a length that is not its own
        b"999 path=a\n",
        b"-1 path=a\n",
        b"9 nothing\n",
        b"8 =abcd\n",
        b"16 size=99999999999999999999\n",
        b"25 GNU.sparse.map=1,2,3\n",
        b"22 GNU.sparse.major=7\n",
    ],
)
def test_bad_extended_headers(records: bytes) -> None:
    info = tarfile.TarInfo("x")
    info.type = b"x"
    info.size = len(records)
    data = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + archive([entry("f", data=b"1")])
    with pytest.raises(ArchiveError):
        read(data)


def test_headers_that_would_fill_the_memory() -> None:
    info = tarfile.TarInfo("x")
    info.type = b"L"
    info.size = 1 << 32
    with pytest.raises(ArchiveError, match="exceeds"):
        read(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))


def test_the_writer_makes_what_python_reads() -> None:
    output = io.BytesIO()
    writer = Writer(output.write)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "f")
        with open(path, "wb") as file:
            file.write(b"data" * 1000)
        os.utime(path, ns=(0, 1_600_000_000_123_456_789))
        seen = os.lstat(path)
        for name in ("short", "l" * 101, "ä/" + "x" * 90):
            fd = os.open(path, os.O_RDONLY)
            writer.add(name.encode(), seen, xattrs={"user.b": b"2", "user.a": b"\0\n="}, source=fd)
            os.close(fd)
        writer.add(b"link" * 40, seen, linkname=b"l" * 101, hard_link=True)
        writer.add(b"dir", os.lstat(directory))
        writer.add_empty_file(b".wh.gone")
        writer.finish()
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as found:
        members = found.getmembers()
        assert [member.name for member in members] == [
            "short",
            "l" * 101,
            "ä/" + "x" * 90,
            "link" * 40,
            "dir",
            ".wh.gone",
        ]
        body = found.extractfile(members[2])
        assert body is not None and body.read() == b"data" * 1000
        assert members[0].pax_headers["SCHILY.xattr.user.a"] == "\0\n="
        assert members[0].pax_headers["mtime"] == "1600000000.123456789"
        assert members[3].islnk() and members[3].linkname == "l" * 101
        assert members[4].isdir()
    again = read(output.getvalue())
    assert again[0][0].mtime == 1_600_000_000_123_456_789
    assert again[0][0].xattrs == {b"user.a": b"\0\n=", b"user.b": b"2"}

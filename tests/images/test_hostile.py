"""Archives made to harm: each ends in a clear error, or in a tree that is safe, as containerd's is."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images.peer import Peer
from tests.images.trees import Tree, archive, entry, read_tree
from tests.images.worker import alone, apply, bind, described, settle
from wherry.errors import Error, InvalidArgument, ResourceExhausted
from wherry.images import worker
from wherry.images.compression import decompressed
from wherry.images.tar import ArchiveError, Reader, Stream
from wherry.linux.mount import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

D, L, S, C, B, F = (
    tarfile.DIRTYPE,
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.FIFOTYPE,
)
Entries = list[tuple[tarfile.TarInfo, bytes]]

#: Later than any time in the archives.
NOW = 1_600_000_000_000_000_000


def without_now(tree: Tree) -> Tree:
    """A tree without the times that no archive has given."""
    return {path: {k: v for k, v in found.items() if k != "mtime" or v < NOW} for path, found in tree.items()}


#: What containerd applies, and to the same tree.
HARMLESS: dict[str, Entries] = {
    "absolute and ..": [
        entry("/abs", data=b"1"),
        entry("../up", data=b"2"),
        entry("a/../../../b", data=b"3"),
        entry("//c//./d/../e", data=b"4"),
    ],
    "through a symbolic link": [
        entry("out", S, linkname="/etc"),
        entry("out/wherry-test", data=b"x"),
        entry("rel", S, linkname="../../../../../etc"),
        entry("rel/wherry-test-2", data=b"x"),
    ],
    "hard link through ..": [entry("in", data=b"in"), entry("out", L, linkname="../../../../in")],
    "devices": [
        entry("dev", D),
        entry("dev/sda", B, devmajor=8, devminor=0, mode=0o666),
        entry("dev/mem", C, devmajor=1, devminor=1, mode=0o666),
        entry("dev/null", C, devmajor=1, devminor=3, mode=0o666),
        entry("dev/fifo", F, mode=0o622),
    ],
    "file over directory and back": [
        entry("x", D),
        entry("x/in", data=b"in"),
        entry("x", data=b"file"),
        entry("y", data=b"file"),
        entry("y", D),
        entry("y/in", data=b"in"),
    ],
    "one name many times": [entry("x", data=b"%d" % number, mode=0o600 + number) for number in range(50)],
    "over its own kind": [
        entry("l", S, linkname="a"),
        entry("l", S, linkname="b"),
        entry("f", F),
        entry("f", C, devmajor=1, devminor=3),
        entry("f", data=b"1"),
    ],
    "a file where a link was is not written through it": [
        entry("target", data=b"mine", mode=0o600),
        entry("l", S, linkname="target"),
        entry("l", data=b"other", mode=0o777),
    ],
    "mode through links (CVE-2021-32760)": [
        entry("target", data=b"x", mode=0o600),
        entry("l", S, linkname="/target", mode=0o4777),
        entry("h", L, linkname="l", mode=0o4777),
    ],
    "set-id by a hard link": [
        entry("t", data=b"x", mode=0o755, uid=5),
        entry("h", L, linkname="t", mode=0o6755, uid=9),
    ],
    "opaque root": [entry("a", data=b"1"), entry(".wh..wh..opq"), entry("b", data=b"2")],
    "names of 255 octets": [entry("n" * 255, data=b"1"), entry("\u00e9" * 127 + "/" + "m" * 255, data=b"2")],
    "link target beyond a name": [entry("l", S, linkname="x" * 4000)],
}


@pytest.mark.parametrize("name", list(HARMLESS))
async def test_harmless_as_in_containerd(name: str, tmp_path: Path, peer: Peer) -> None:
    layer = archive(HARMLESS[name])
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory in (ours, theirs):
        directory.mkdir()
    await apply(layer, [bind(ours)], tmp_path)
    await peer.apply(layer, [bind(theirs)])
    assert without_now(read_tree(ours)) == without_now(read_tree(theirs))
    # Outside of it nothing has come to be.
    assert not list(Path("/etc").glob("wherry-test*"))
    assert not os.path.lexists("/wherry-test")
    assert not os.path.lexists(tmp_path / "up")
    # Side by side, the same.
    await apply(layer, [alone(tmp_path / "upper")], tmp_path)
    await settle(tmp_path / "upper", [])
    upper = read_tree(tmp_path / "upper/fs")
    for found in upper.values():
        found["xattrs"].pop("trusted.overlay.opaque", None)
    assert without_now(upper) == without_now(read_tree(ours))


#: What ends in an error: by its words.
HARMFUL: dict[str, tuple[Entries, str]] = {
    "hard link to outside": ([entry("h", L, linkname="../../../../etc/passwd-not-here")], 'layer entry "h"'),
    "hard link to itself": ([entry("h", L, linkname="h")], "hard link to itself"),
    "hard link to a directory": ([entry("d", D), entry("h", L, linkname="d")], 'layer entry "h"'),
    "removal of ..": ([entry("d/.wh...")], "invalid whiteout"),
    "removal of .": ([entry("d/.wh..")], "invalid whiteout"),
    "removal of nothing": ([entry(".wh.")], "invalid whiteout"),
    "through a file": ([entry("f"), entry("f/x")], "not a directory"),
    "through a device": ([entry("f", C, devmajor=1, devminor=3), entry("f/x")], "not a directory"),
    "through a loop": ([entry("a", S, linkname="b"), entry("b", S, linkname="a"), entry("a/x")], "symbolic links"),
    "a name of 256 octets": ([entry("n" * 256)], "file name too long"),
    "a name beyond a path": ([entry("d/" * 2100 + "f")], "file name too long"),
    "a link target beyond a path": ([entry("l", S, linkname="x" * 5000)], "file name too long"),
    "an owner that is none": ([entry("f", uid=0xFFFFFFFF)], "invalid user or group id"),
    "an owner below 0": ([entry("f", uid=-5)], "invalid user or group id"),
    "unknown kind": ([entry("f", b"Q")], "unknown type"),
}


@pytest.mark.parametrize("name", list(HARMFUL))
async def test_harmful_ends_in_an_error(name: str, tmp_path: Path) -> None:
    entries, words = HARMFUL[name]
    (tmp_path / "target").mkdir()
    layer = archive(entries, format=tarfile.GNU_FORMAT if "owner" in name else tarfile.PAX_FORMAT)
    with pytest.raises(Error, match=words):
        await apply(layer, [bind(tmp_path / "target")], tmp_path)


async def test_a_device_is_never_opened(tmp_path: Path) -> None:
    """A FIFO would wait for its other end, and /dev/sda is somebody's disk."""
    entries = [entry("p", F), entry("p", data=b"1"), entry("d", F), entry("h", L, linkname="d"), entry(".wh.h")]
    (tmp_path / "target").mkdir()
    await apply(archive(entries), [bind(tmp_path / "target")], tmp_path)
    await apply(archive([entry("d", data=b"2")]), [bind(tmp_path / "target")], tmp_path)
    assert (tmp_path / "target/d").read_bytes() == b"2"


def header(size: bytes, kind: bytes = b"0", name: bytes = b"f") -> bytes:
    """A ustar header with these octets for its size."""
    block = bytearray(tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT))
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(*records: bytes, size: int | None = None) -> bytes:
    body = b"".join(records)
    length = len(body) if size is None else size
    return header(b"%011o" % length, b"x") + body + bytes(-len(body) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    length = len(keyword) + len(value) + 3
    while len(b"%d" % length) + len(keyword) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(keyword) + len(value) + 3
    return b"%d %s=%s\n" % (length, keyword, value)


ONE = header(b"%011o" % 0)
END = bytes(1024)

NONSENSE: dict[str, bytes] = {
    "size below 0": header(b"\xff" * 12) + END,
    "size of 2^63 in base 256": header(b"\x80" + (1 << 63).to_bytes(11, "big")) + END,
    "size of 2^87": header(b"\x80" + b"\x7f" * 11) + END,
    "size in letters": header(b"12x45") + END,
    "PAX size below 0": pax(record(b"size", b"-5")) + ONE + END,
    "PAX size of 2^63": pax(record(b"size", b"%d" % (1 << 63))) + ONE + END,
    "PAX size of 10^30": pax(record(b"size", b"1" + b"0" * 30)) + ONE + END,
    "PAX length beyond the record": pax(b"99 path=x\n") + ONE + END,
    "PAX length 0": pax(b"0 path=x\n") + ONE + END,
    "PAX length of many digits": pax(b"9" * 400 + b" path=x\n") + ONE + END,
    "PAX without =": pax(b"8 path\n\n") + ONE + END,
    "PAX name with a 0": pax(record(b"path", b"a\0b")) + ONE + END,
    "PAX of 2 GiB": pax(size=1 << 31) + ONE + END,
    "PAX for nobody": pax(record(b"path", b"x"))[:512],
    "GNU name of 2 GiB": header(b"%011o" % (1 << 31), b"L") + END,
    "sparse map backwards": pax(
        record(b"GNU.sparse.size", b"10"),
        record(b"GNU.sparse.numblocks", b"2"),
        record(b"GNU.sparse.offset", b"5"),
        record(b"GNU.sparse.numbytes", b"5"),
        record(b"GNU.sparse.offset", b"0"),
        record(b"GNU.sparse.numbytes", b"5"),
    )
    + header(b"%011o" % 10)
    + bytes(512)
    + END,
    "sparse map beyond the file": pax(record(b"GNU.sparse.size", b"1"), record(b"GNU.sparse.map", b"0,1,4096,511"))
    + header(b"%011o" % 512)
    + bytes(512)
    + END,
    "sparse file of 2^63": pax(record(b"GNU.sparse.size", b"%d" % (1 << 63)), record(b"GNU.sparse.map", b""))
    + ONE
    + END,
    "half a header": ONE[:300],
    "one block of zeros, then more": bytes(512) + ONE,
}


@pytest.mark.parametrize("name", list(NONSENSE))
async def test_nonsense_is_refused(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(InvalidArgument):
        await apply(NONSENSE[name], [bind(target)], tmp_path)


async def test_attributes_beyond_what_a_file_can_have(tmp_path: Path) -> None:
    for number, headers in enumerate(
        (
            {"SCHILY.xattr.user.big": "x" * 70_000},
            {f"SCHILY.xattr.user.n{each}": "x" * 900 for each in range(1000)},
            {"SCHILY.xattr.user." + "n" * 300: "x"},
        )
    ):
        target = tmp_path / str(number)
        target.mkdir()
        with pytest.raises(Error):
            await apply(archive([entry("f", pax_headers=headers)]), [bind(target)], tmp_path)


async def test_attributes_of_the_kernels_are_nobodys(tmp_path: Path) -> None:
    headers = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.metacopy": "",
    }
    await apply(
        archive([entry("d", D, pax_headers=headers), entry("f", pax_headers=headers)]), [alone(tmp_path)], tmp_path
    )
    assert all(found["xattrs"] == {} for found in read_tree(tmp_path / "fs").values())


# Bombs.


class Zeros:
    """An archive with one file of zeros, as a stream that takes no room."""

    def __init__(self, size: int) -> None:
        self.head = archive([entry("zeros", data=b"")])[:512]
        info, _ = entry("zeros")
        info.size = size
        self.head = info.tobuf(tarfile.GNU_FORMAT)
        self.size = size

    def gzip(self) -> bytes:
        compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
        pieces = [compressor.compress(self.head)]
        piece = bytes(1 << 20)
        pieces += [compressor.compress(piece) for _ in range(self.size >> 20)]
        return b"".join(pieces) + compressor.compress(END) + compressor.flush()

    def zstd(self) -> bytes:
        output = io.BytesIO()
        with zstandard.ZstdCompressor(level=1).stream_writer(output, closefd=False) as writer:
            writer.write(self.head)
            for _ in range(self.size >> 20):
                writer.write(bytes(1 << 20))
            writer.write(END)
        return output.getvalue()


def run_measured(layer: Path, mount: Mount, mount_point: Path) -> tuple[dict[str, object], int]:
    """Run a worker in a fork; return what it answers, and by how many octets its memory grew at most."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    fd = os.open(layer, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        try:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # the peak starts from here
            before = _status("VmRSS")
            arguments = {
                "action": "apply",
                "mounts": [described(mount)],
                "mount_point": str(mount_point),
                "compressed": True,
                "sync": False,
            }
            status = os.open("/proc/self/status", os.O_RDONLY)  # before there is another root
            worker.main(arguments, [theirs.fileno(), fd])
            peak = _status("VmHWM", os.read(status, 65536).decode())
            os.write(write, b"%d" % (peak - before))
        finally:
            os._exit(0)
    os.close(write)
    theirs.close()
    answer = json.loads(ours.recv(65536))
    os.waitpid(pid, 0)
    grown = int(os.read(read, 100))
    for each in (read, fd):
        os.close(each)
    ours.close()
    return answer, grown


def _status(name: str, text: str = "") -> int:
    text = text or Path("/proc/self/status").read_text()
    return int(text.split(name + ":")[1].split()[0]) << 10


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_fills_its_disk_and_no_memory(kind: str, tmp_path: Path) -> None:
    """containerd has no limit either: it writes until the disk is full. What counts is that it ends there."""
    layer = tmp_path / "layer"
    layer.write_bytes(getattr(Zeros(1 << 30), kind)())
    assert layer.stat().st_size < 4 << 20
    answer, grown = run_measured(layer, Mount("tmpfs", "tmpfs", ["size=8m"]), tmp_path)
    assert answer["code"] == ResourceExhausted.code
    assert answer["error"] == 'layer entry "zeros": no space left on device: resource exhausted'
    assert grown < 16 << 20


@pytest.mark.long
def test_a_bomb_of_ten_gigabytes(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(Zeros(10 << 30).zstd())
    (tmp_path / "target").mkdir()
    answer, grown = run_measured(layer, bind(tmp_path / "target"), tmp_path)
    assert answer["size"] == (10 << 30) + 1536
    assert grown < 16 << 20


async def test_a_file_that_is_all_hole_takes_no_room(tmp_path: Path) -> None:
    size = 10 << 30
    layer = (
        pax(record(b"GNU.sparse.size", b"%d" % size), record(b"GNU.sparse.map", b"%d,1" % (size - 1)))
        + header(b"%011o" % 1)
        + b"x".ljust(512, b"\0")
        + END
    )
    (tmp_path / "target").mkdir()
    await apply(layer, [bind(tmp_path / "target")], tmp_path)
    seen = os.stat(tmp_path / "target/f")
    assert (seen.st_size, seen.st_blocks <= 16) == (size, True)


def _many(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield header(b"%011o" % 0, name=b"d/%d" % number)
    yield END


@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_many_empty_files_take_no_memory(count: int, tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    with gzip.open(layer, "wb", compresslevel=1) as file:
        for block in _many(count):
            file.write(block)
    (tmp_path / "target").mkdir()
    answer, grown = run_measured(layer, bind(tmp_path / "target"), tmp_path)
    assert answer["size"] == 512 * count + 1024
    assert len(os.listdir(tmp_path / "target/d")) == count
    assert grown < 12 << 20


async def test_directories_two_thousand_deep(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    deep = "d/" * 2000
    await apply(archive([entry(deep + "f", data=b"x"), entry("d", data=b"file")]), [bind(target)], tmp_path)
    assert (target / "d").read_bytes() == b"file"
    upper = tmp_path / "upper"
    await apply(archive([entry(deep + "f", data=b"x")]), [alone(upper)], tmp_path)
    await settle(upper, [target])
    await apply(archive([entry(".wh.d")]), [bind(upper / "fs")], tmp_path)
    assert os.listdir(upper / "fs") == []


# Damage.

SAMPLE = archive([entry(f"f{number}", data=os.urandom(400)) for number in range(40)])
PACKED = {
    "gzip": gzip.compress(SAMPLE, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(SAMPLE),
}


def _read_all(data: bytes, kind: str, step: int) -> bytes:
    pieces = (data[at : at + step] for at in range(0, len(data), step))
    return b"".join(decompressed(pieces, kind))


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["gzip", "zstd"]), data=st.data())
def test_a_flipped_bit_is_noticed_or_changes_nothing(kind: str, data: st.DataObject) -> None:
    packed = bytearray(PACKED[kind])
    at = data.draw(st.integers(0, len(packed) * 8 - 1))
    packed[at // 8] ^= 1 << at % 8
    try:
        assert _read_all(bytes(packed), kind, data.draw(st.sampled_from([1, 100, 70_000]))) == SAMPLE
    except ArchiveError as error:
        assert kind in str(error)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["gzip", "zstd"]), data=st.data())
def test_a_cut_is_noticed(kind: str, data: st.DataObject) -> None:
    packed = PACKED[kind]
    length = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(ArchiveError, match="unexpected end"):
        _read_all(packed[:length], kind, data.draw(st.sampled_from([1, 100, 70_000])))


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_to_headers_is_an_archive_error_or_an_archive(changes: list[tuple[int, int]]) -> None:
    headers = {"SCHILY.xattr.user.a": "1", "mtime": "5.5", "path": "x" * 120}
    damaged = bytearray(archive([entry("x", pax_headers=headers, data=b"1" * 600), entry("y", D)])[:4096])
    for at, octet in changes:
        damaged[at] = octet
    try:
        for found in Reader(Stream([bytes(damaged)])):
            assert found.size >= 0
    except ArchiveError:
        pass


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.sampled_from("ab/.~"), st.sampled_from([b"0", D, S, L, F]), st.booleans()), max_size=14)
)
async def test_no_order_of_links_and_names_leads_out(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bytes, bool]]
) -> None:
    """Symbolic and hard links to everywhere, and names through them: outside the directory nothing changes."""
    tmp_path = tmp_path_factory.mktemp("out")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"before")
    os.chmod(outside / "file", 0o640)
    target = tmp_path / "in/target"
    target.mkdir(parents=True)
    places = [str(outside), f"..{outside}", "../../outside", "/", "..", "a", "b"]
    entries = []
    name = "a"
    for number, (letter, kind, through) in enumerate(steps):
        name = f"{name}/{letter}/file" if through else letter.replace("/", "a/b").replace("~", "../outside/file")
        linkname = places[number % len(places)] + ("/file" if kind == L else "")
        entries.append(entry(name, kind, mode=0o777, uid=1, linkname=linkname))
    for place in (bind(target), alone(tmp_path / "upper")):
        try:
            await apply(archive(entries), [place], tmp_path)
        except Error:
            pass
    seen = os.lstat(outside / "file")
    assert (outside / "file").read_bytes() == b"before"
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_nlink) == (0o640, 0, 1)
    assert os.listdir(outside) == ["file"]

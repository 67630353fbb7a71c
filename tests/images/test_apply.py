"""Layers applied to real directories, and compared with what Debian's containerd makes of the same layers."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import struct
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images.peer import Peer
from tests.images.trees import Tree, archive, entry, read_tree
from tests.images.worker import apply, bind, overlay
from wherry.errors import Error, FailedPrecondition, InvalidArgument, ResourceExhausted
from wherry.linux.mount import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

D, L, S, C, F = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE

#: security.capability, version 2: cap_net_raw permitted and effective.
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


RICH = [
    entry("./", D, mode=0o700),
    entry("usr/", D, mode=0o755),
    entry("usr/bin/", D, mode=0o2755, gid=7),
    entry("usr/bin/tool", data=b"#!/bin/sh\n" * 300, mode=0o4755),
    entry("usr/bin/ping", data=b"ping", pax_headers={"SCHILY.xattr.security.capability": CAPABILITY.decode("latin1")}),
    entry("usr/bin/link", L, linkname="usr/bin/tool", mode=0o4755),
    entry("usr/bin/sh", S, linkname="/bin/../usr/bin/tool", uid=3, gid=4),
    entry("bin", S, linkname="usr/bin"),
    entry("bin/through-link", data=b"x"),
    entry("dev/null", C, devmajor=1, devminor=3, mode=0o666),
    entry("dev/pipe", F, mode=0o600),
    entry("big-ids", data=b"", uid=4_000_000, gid=4_294_967_294),
    entry("nanoseconds", data=b"n", mtime=1_500_000_000.123456789, pax_headers={"mtime": "1500000000.123456789"}),
    entry("user-xattr", data=b"u", pax_headers={"SCHILY.xattr.user.name": "value", "SCHILY.xattr.trusted.x": "no"}),
    entry("n" * 100 + "/" + "m" * 120 + "/file", data=b"long"),
    entry("sticky", D, mode=0o1777),
    entry("before-1970", data=b"", mtime=-5),
    entry("übung", data=b"unicode"),
    entry("twice", data=b"first"),
    entry("twice", data=b"second"),
    entry("a/../../../outside", data=b"clamped"),
    entry("dir-then-file", D),
    entry("dir-then-file/x", data=b""),
    entry("dir-then-file", data=b"file"),
]


def without_implicit_times(tree: Tree, explicit: Sequence[str]) -> Tree:
    """Times of whiteouts, and of directories that no entry describes, are those of the moment, there as here."""
    for path, found in tree.items():
        if (found["mode"].startswith("0o4") and path not in explicit) or found.get("device") == (0, 0):
            found.pop("mtime")
    return tree


@pytest.mark.parametrize("compress", [gzip.compress, lambda data: zstandard.compress(data), lambda data: data])
async def test_every_kind_of_entry_as_containerd(
    tmp_path: Path, peer: Peer, compress: Callable[[bytes], bytes]
) -> None:
    plain = archive(RICH) + bytes(5 * 512)
    explicit = [info.name.rstrip("/") for info, _ in RICH if info.isdir()]
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    layer = compress(plain)
    answer = await apply(layer, [bind(tmp_path / "ours")], tmp_path)
    applied = await peer.apply(layer, [bind(tmp_path / "theirs")])
    assert answer == {"digest": "sha256:" + hashlib.sha256(plain).hexdigest(), "size": len(plain)}
    assert (applied.digest, applied.size) == (answer["digest"], answer["size"])
    ours = without_implicit_times(read_tree(tmp_path / "ours"), explicit)
    theirs = without_implicit_times(read_tree(tmp_path / "theirs"), explicit)
    assert ours == theirs
    assert "security.capability" in ours["usr/bin/ping"]["xattrs"]
    assert ours["usr/bin/tool"]["mode"] == oct(0o104755)


@pytest.mark.parametrize("format_", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_other_formats_as_containerd(tmp_path: Path, peer: Peer, format_: int) -> None:
    entries = [
        entry("d" * 80 + "/", D),
        entry("d" * 80 + "/" + "f" * 90, data=b"long name"),
        entry("l", S, linkname="t" * (150 if format_ == tarfile.GNU_FORMAT else 90)),
    ]
    if format_ == tarfile.GNU_FORMAT:
        entries.append(entry("ids", data=b"", uid=5_000_000, gid=3_000_000))
    layer = archive(entries, format_)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    await apply(layer, [bind(tmp_path / "ours")], tmp_path)
    await peer.apply(layer, [bind(tmp_path / "theirs")])
    assert read_tree(tmp_path / "ours") == read_tree(tmp_path / "theirs")


WHITEOUTS_BELOW = [
    entry("gone", data=b"1"),
    entry("gone-dir", D),
    entry("gone-dir/file", data=b"1"),
    entry("opaque", D, mode=0o711, uid=5),
    entry("opaque/old", data=b"1"),
    entry("opaque/both", data=b"1"),
    entry("implicit", D, mode=0o750, uid=9, gid=8),
    entry("implicit/kept", data=b"1"),
    entry("linked", data=b"linked", mode=0o640),
    entry("replaced", D),
    entry("replaced/inside", data=b"1"),
    entry("again", D),
    entry("again/old", data=b"1"),
]
WHITEOUTS = [
    entry(".wh.gone"),
    entry(".wh.gone-dir"),
    entry("opaque", D, mode=0o711, uid=5),
    entry("opaque/.wh..wh..opq"),
    entry("opaque/both", data=b"2"),
    entry("opaque/new", data=b"2"),
    entry("implicit/new", data=b"2"),
    entry("replaced", data=b"file now"),
    entry(".wh..wh.plnk/1.2", data=b"aufs"),
]


async def test_whiteouts_as_containerd(tmp_path: Path, peer: Peer) -> None:
    """On a plain tree names are removed; in an overlay's upper directory removals are written down."""
    below, layer = archive(WHITEOUTS_BELOW), archive([e for e in WHITEOUTS if ".plnk" not in e[0].name])
    trees: dict[str, list[Tree]] = {"plain": [], "upper": []}
    for who in ("ours", "theirs"):
        plain, lower = tmp_path / who / "plain", tmp_path / who / "lower"
        plain.mkdir(parents=True)
        lower.mkdir()
        mount = overlay(tmp_path / who, [lower])
        for target, data in ((bind(plain), below), (bind(lower), below), (bind(plain), layer), (mount, layer)):
            if who == "ours":
                await apply(data, [target], tmp_path)
            else:
                await peer.apply(data, [target])
        for name in trees:
            trees[name].append(without_implicit_times(read_tree(tmp_path / who / name), []))
    assert trees["plain"][0] == trees["plain"][1]
    assert trees["upper"][0] == trees["upper"][1]
    upper = trees["upper"][0]
    assert upper["gone"]["device"] == (0, 0)
    assert upper["opaque"]["xattrs"]["trusted.overlay.opaque"] == b"y"
    assert upper["implicit"]["owner"] == (9, 8)


#: Whiteouts concern what other layers have put there, in whatever order the entries come.
@pytest.mark.parametrize(
    "entries",
    [
        [*WHITEOUTS],
        [entry("again", D), entry("again/new", data=b"2"), entry("again/.wh..wh..opq")],
        [entry(".wh.again"), entry("again", D), entry("again/new", data=b"2")],
        [entry(".wh.again"), entry("again/new", data=b"2")],
        [entry("again/new", data=b"2"), entry(".wh.again")],
        [entry("again/sub/new", data=b"2"), entry("again/.wh..wh..opq")],
        [entry("gone", data=b"2"), entry(".wh.gone")],
        [entry("again", data=b"file"), entry("again", D), entry("again/new", data=b"2")],
        [entry("hard", L, linkname="linked", mode=0o640)],
        [entry("implicit/.wh.kept")],
        [entry("opaque/.wh.absent"), entry(".wh.never-there")],
    ],
)
async def test_overlay_shows_what_a_plain_tree_has(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    below, layer = archive(WHITEOUTS_BELOW), archive(entries)
    plain, lower, merged = tmp_path / "plain", tmp_path / "lower", tmp_path / "merged"
    for directory in (plain, lower, merged):
        directory.mkdir()
    mount = overlay(tmp_path, [lower])
    for target, data in ((bind(plain), below), (bind(lower), below), (bind(plain), layer), (mount, layer)):
        await apply(data, [target], tmp_path)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join(mount.options), merged], check=True)
    try:
        shown = read_tree(merged)
    finally:
        subprocess.run(["umount", merged], check=True)
    for found in shown.values():
        found["xattrs"] = {k: v for k, v in found["xattrs"].items() if not k.startswith("trusted.overlay.")}
    assert without_implicit_times(shown, []) == without_implicit_times(read_tree(plain), [])


async def test_through_a_mount_when_the_mounts_are_more_than_directories(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    await apply(archive(WHITEOUTS_BELOW), [bind(lower)], tmp_path)
    # An option of no concern to us makes it a case for the kernel.
    mount = overlay(tmp_path, [lower], "volatile")
    await apply(archive(WHITEOUTS), [mount], tmp_path, sync=True)
    upper = read_tree(tmp_path / "upper")
    assert upper["gone"]["device"] == (0, 0)
    assert "implicit/new" in upper


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../../etc/passwd", "x/../../../etc/passwd", "escape/etc/passwd", "up/etc/passwd"],
)
async def test_nothing_leaves_the_directory(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    before = Path("/etc/passwd").read_bytes()
    layer = archive(
        [
            entry("escape", S, linkname="/"),
            entry("up", S, linkname="../../../../../../../.."),
            entry(name, data=b"hostile"),
            entry("hard", L, linkname="../../../../../../etc/passwd"),
            entry(".wh...", data=b""),
        ][:4]
    )
    await apply(layer, [bind(target)], tmp_path)
    assert Path("/etc/passwd").read_bytes() == before
    assert (target / "etc/passwd").read_bytes() == b"hostile"
    assert os.stat(target / "hard").st_ino == os.stat(target / "etc/passwd").st_ino


async def test_dangling_links_lead_to_directories_made_where_they_point(tmp_path: Path, peer: Peer) -> None:
    layer = archive(
        [
            entry("lib", S, linkname="usr/lib"),
            entry("abs", S, linkname="/opt/x/../y"),
            entry("lib/libc.so", data=b"c"),
            entry("abs/file", data=b"f"),
        ]
    )
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    await apply(layer, [bind(tmp_path / "ours")], tmp_path)
    await peer.apply(layer, [bind(tmp_path / "theirs")])
    ours = without_implicit_times(read_tree(tmp_path / "ours"), [])
    assert ours["usr/lib/libc.so"]["content"] == hashlib.sha256(b"c").hexdigest()
    assert "opt/y/file" in ours
    assert ours == without_implicit_times(read_tree(tmp_path / "theirs"), [])


async def test_sparse_files(tmp_path: Path, peer: Peer) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        for offset in (0, 1 << 20, 5 << 20, 9 << 20):
            file.seek(offset)
            file.write(b"data at %d" % offset)
        file.truncate(12 << 20)
    wanted = (source / "sparse").read_bytes()
    for number, options in enumerate(
        (
            ["--format=gnu"],
            ["--format=posix", "--sparse-version=0.0"],
            ["--format=posix", "--sparse-version=0.1"],
            ["--format=posix", "--sparse-version=1.0"],
        )
    ):
        made = subprocess.run(
            ["tar", "--sparse", *options, "-C", source, "-cf", "-", "sparse"], check=True, capture_output=True
        )
        assert len(made.stdout) < 1 << 20
        target = tmp_path / f"target-{number}"
        target.mkdir()
        await apply(made.stdout, [bind(target)], tmp_path)
        assert (target / "sparse").read_bytes() == wanted
        assert os.stat(target / "sparse").st_blocks * 512 < 1 << 20


def _bad(change: Callable[[bytearray], None]) -> bytes:
    data = bytearray(archive([entry("first", data=b"1" * 1000), entry("second", data=b"2" * 1000)]))
    change(data)
    return bytes(data)


def _flip(data: bytearray) -> None:
    data[1536 + 10] ^= 0xFF


LAYER = archive([entry("first", data=os.urandom(3000)), entry("second", data=os.urandom(3000))])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (_bad(_flip), "invalid tar header"),
        (_bad(lambda data: data.__delitem__(slice(2000, None))), "unexpected end of archive"),
        (b"this is no archive" * 100, "invalid tar header"),
        (gzip.compress(LAYER)[:-500], "gzip: unexpected end of data"),
        (gzip.compress(LAYER)[:-6] + b"abcdef", "gzip"),
        (gzip.compress(LAYER) + b"rubbish", "gzip"),
        (zstandard.compress(LAYER)[:-500], "zstd: unexpected end of data"),
        (zstandard.compress(LAYER)[:3000] + b"\xff" * 3000, "zstd"),
        (archive([entry("a/.wh..", data=b"")]), 'layer entry "a/.wh..": invalid whiteout'),
        (archive([entry("l", L, linkname="absent")]), 'layer entry "l": '),
        (archive([entry("f", data=b""), entry("f/below", data=b"")]), 'layer entry "f/below": not a directory'),
        (archive([entry("odd", b"V")]), "unknown type"),
    ],
)
async def test_damaged_layers_are_refused(tmp_path: Path, layer: bytes, words: str) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(Error) as caught:
        await apply(layer, [bind(target)], tmp_path)
    assert words in caught.value.message
    if "layer entry" not in words:
        assert isinstance(caught.value, InvalidArgument)


@pytest.mark.parametrize(
    "layer", [LAYER, gzip.compress(archive(RICH)), zstandard.compress(LAYER)[:-500], b"no archive"]
)
async def test_no_module_comes_from_the_layers(tmp_path: Path, layer: bytes) -> None:
    """An image with a Python of its own, where ours is: nothing of it may run here, whatever else goes wrong."""
    target = tmp_path / "target"
    told = target / "imported"
    for directory in {os.path.dirname(os.__file__), sysconfig.get_path("purelib"), *filter(os.path.isdir, sys.path)}:
        place = target / directory.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        for name in sys.stdlib_module_names:
            (place / f"{name}.py").write_text(f"open('/imported', 'a').write('{name} ')")
    with contextlib.suppress(Error):
        await apply(layer, [bind(target)], tmp_path)
    assert not told.exists(), told.read_text()


async def test_several_members_and_frames_are_one_stream(tmp_path: Path) -> None:
    half = len(LAYER) // 2
    for number, layer in enumerate(
        (
            gzip.compress(LAYER[:half]) + gzip.compress(LAYER[half:]),
            zstandard.compress(LAYER[:half]) + b"\x50\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(LAYER[half:]),
            b"\x5f\x2a\x4d\x18\x03\0\0\0abc" + zstandard.compress(LAYER),
        )
    ):
        target = tmp_path / str(number)
        target.mkdir()
        answer = await apply(layer, [bind(target)], tmp_path)
        assert answer["digest"] == "sha256:" + hashlib.sha256(LAYER).hexdigest()
        assert len(os.listdir(target)) == 2


async def test_what_is_plain_by_its_type_is_not_decompressed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(InvalidArgument):
        await apply(gzip.compress(LAYER), [bind(tmp_path / "target")], tmp_path, compressed=False)


async def test_read_only_targets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(FailedPrecondition, match="read-only"):
        await apply(LAYER, [bind(tmp_path / "target", "ro")], tmp_path)
    lowers = f"lowerdir={tmp_path}/target:{tmp_path}"
    with pytest.raises(FailedPrecondition, match="upper"):
        await apply(LAYER, [Mount("overlay", "overlay", [lowers])], tmp_path)
    with pytest.raises(FailedPrecondition):
        await apply(LAYER, [], tmp_path)
    assert os.listdir(tmp_path / "target") == []


async def test_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    layer = archive([entry("big", data=bytes(4 << 20))])
    with pytest.raises(ResourceExhausted, match='layer entry "big"'):
        await apply(layer, [Mount("tmpfs", "tmpfs", ["size=1m"])], tmp_path)


async def test_deep_and_long(tmp_path: Path) -> None:
    """Directories as deep as a path can be, removed again; the removal may not run out of stack or descriptors."""
    target = tmp_path / "target"
    target.mkdir()
    deep = "/".join(["d"] * 1900)
    await apply(archive([entry(deep + "/file", data=b"x")]), [bind(target)], tmp_path)
    await apply(archive([entry(".wh.d")]), [bind(target)], tmp_path)
    assert os.listdir(target) == []


names = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, D, D, S, F])
modes = st.integers(0, 0o7777)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lower=st.lists(st.tuples(names, kinds, modes), max_size=12),
    upper=st.lists(st.tuples(names, kinds, modes, st.booleans()), max_size=12),
)
async def test_any_layers_as_containerd(
    tmp_path_factory: pytest.TempPathFactory,
    peer: Peer,
    lower: list[tuple[str, bytes, int]],
    upper: list[tuple[str, bytes, int, bool]],
) -> None:
    """Random trees and removals on a plain directory: the same tree as containerd's, unless that gives up."""
    tmp_path = tmp_path_factory.mktemp("any")
    seen: set[str] = set()
    first = [entry(name, kind, data=b"", mode=mode, linkname="a/b") for name, kind, mode in lower]
    second = []
    for name, kind, mode, removed in upper:
        head, _, base = name.rpartition("/")
        # A whiteout of what the same layer has is where we follow the specification and containerd does not.
        if removed and not any(other == name or other.startswith(name + "/") for other in seen):
            second.append(entry(f"{head}/.wh.{base}" if head else f".wh.{base}"))
        elif not removed:
            second.append(entry(name, kind, mode=mode, linkname="../c"))
            seen.add(name)
    results: list[tuple[bool, Tree]] = []
    for who in ("ours", "theirs"):
        target = tmp_path / who
        target.mkdir()
        failed = False
        for layer in (archive(first), archive(second)):
            try:
                if who == "ours":
                    await apply(layer, [bind(target)], tmp_path)
                else:
                    await peer.apply(layer, [bind(target)])
            except Error:
                failed = True
        results.append((failed, {} if failed else without_implicit_times(read_tree(target), [])))
    # Where a directory gives way to a file later in a layer, containerd fails over the directory's time.
    if not results[1][0]:
        assert results[0] == results[1]

"""Layers made of the difference of two trees: applied to the one, by us and by containerd, they give the other."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images.peer import Peer
from tests.images.trees import Tree, archive, entry, read_tree
from tests.images.worker import apply, bind, diff, overlay
from wherry.errors import FailedPrecondition
from wherry.linux.mount import Mount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

D, L, S, C, F = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE

BASE = [
    entry("etc", D),
    entry("etc/changed", data=b"before"),
    entry("etc/kept", data=b"kept"),
    entry("etc/removed", data=b"x"),
    entry("removed-dir", D),
    entry("removed-dir/sub", D),
    entry("removed-dir/sub/file", data=b"x"),
    entry("dir-to-file", D),
    entry("dir-to-file/below", data=b"x"),
    entry("file-to-dir", data=b"x"),
    entry("replaced-dir", D),
    entry("replaced-dir/old", data=b"x"),
    entry("chmod-dir", D),
    entry("chmod-dir/kept", data=b"kept"),
    entry("link", S, linkname="before"),
    entry("one", data=b"linked"),
    entry("a/b/c/d/deep", data=b"deep"),
    entry("a/b/unrelated", data=b"u"),
    entry("times", data=b"same size"),
]


def change(root: Path) -> None:
    """Do to a tree what containers do."""
    (root / "etc/changed").write_bytes(b"after!")
    (root / "etc/removed").unlink()
    shutil.rmtree(root / "removed-dir")
    shutil.rmtree(root / "dir-to-file")
    (root / "dir-to-file").write_bytes(b"file")
    (root / "file-to-dir").unlink()
    (root / "file-to-dir").mkdir(mode=0o750)
    (root / "file-to-dir/inside").write_bytes(b"x")
    shutil.rmtree(root / "replaced-dir")
    (root / "replaced-dir").mkdir()
    (root / "replaced-dir/new").write_bytes(b"x")
    os.chmod(root / "chmod-dir", 0o1700)
    (root / "link").unlink()
    (root / "link").symlink_to("after")
    os.link(root / "one", root / "another-name")
    (root / "a/b/c/d/deep").write_bytes(b"deeper")
    os.utime(root / "times", ns=(5, 1_600_000_000_123_456_789))
    (root / "new").mkdir()
    (root / "new" / ("n" * 130)).write_bytes(os.urandom(3 << 20))
    os.chown(root / "new", 3_000_000, 4_000_000_000)
    os.mkfifo(root / "new/fifo")
    os.mknod(root / "new/null", 0o20666, os.makedev(1, 3))
    (root / "new/größe").write_bytes(b"")
    os.setxattr(root / "new/größe", "user.note", b"\0binary\n=")
    (root / "new/suid").write_bytes(b"s")
    os.chmod(root / "new/suid", 0o4755)
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.getcwd()
        os.chdir(root / "new")
        listener.bind("socket")
        os.chdir(before)
    for number in range(3):
        os.link(root / "new/suid", root / f"new/suid-{number}")


def comparable(tree: Tree) -> Tree:
    """Times of directories change with what is in them, sockets are in no archive, overlayfs' marks are its own."""
    result = {}
    for path, found in tree.items():
        if found["mode"].startswith("0o14"):
            continue
        if found["mode"].startswith("0o4"):
            found.pop("mtime")
        found["xattrs"] = {k: v for k, v in found["xattrs"].items() if not k.startswith("trusted.")}
        result[path] = found
    return result


def merged(mount: Mount, at: Path) -> Tree:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join(mount.options), at], check=True)
    try:
        return read_tree(at)
    finally:
        subprocess.run(["umount", at], check=True)


class Trees:
    """A lower tree, the same changed through an overlay, and the changed one as a plain copy."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lower = directory / "lower"
        self.copy = directory / "copy"
        self.shown = directory / "shown"
        for each in (self.lower, self.shown):
            each.mkdir()
        self.overlay = overlay(directory, [self.lower])

    async def make(self) -> None:
        await apply(archive(BASE), [bind(self.lower)], self.directory)
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", ",".join(self.overlay.options), self.shown], check=True
        )
        try:
            change(self.shown)
            subprocess.run(["cp", "-a", self.shown, self.copy], check=True)
        finally:
            subprocess.run(["umount", self.shown], check=True)


@pytest.fixture
async def trees(tmp_path: Path) -> Trees:
    trees = Trees(tmp_path)
    await trees.make()
    return trees


async def test_a_layer_leads_from_left_to_right(trees: Trees, tmp_path: Path, peer: Peer) -> None:
    """By every way of comparing, and applied by us and by containerd, to a plain tree and to an overlay's upper."""
    layer, answer = await diff([bind(trees.lower, "ro")], [trees.overlay], tmp_path)
    assert answer["digest"] == "sha256:" + hashlib.sha256(layer).hexdigest()
    assert answer["size"] == len(layer)
    assert answer["uncompressed"] == "sha256:" + hashlib.sha256(gzip.decompress(layer)).hexdigest()
    # The same trees as plain directories, compared in full, are the same layer but for the sockets' sake.
    full, _ = await diff([bind(trees.lower, "ro")], [bind(trees.copy, "ro")], tmp_path)
    assert full == layer
    wanted = comparable(merged(trees.overlay, trees.shown))
    for who in ("ours", "theirs"):
        plain = tmp_path / who / "plain"
        plain.parent.mkdir()
        subprocess.run(["cp", "-a", trees.lower, plain], check=True)
        upper = overlay(tmp_path / who, [trees.lower])
        for target in (bind(plain), upper):
            if who == "ours":
                await apply(layer, [target], tmp_path)
            else:
                await peer.apply(layer, [target])
        assert comparable(read_tree(plain)) == wanted, who
        assert comparable(merged(upper, trees.shown)) == wanted, who


async def test_containerds_layer_of_the_same_trees_has_the_same_entries(
    trees: Trees, tmp_path: Path, peer: Peer
) -> None:
    layer, _ = await diff([bind(trees.lower, "ro")], [trees.overlay], tmp_path, compression="")
    theirs = await peer.make([bind(trees.lower, "ro")], [trees.overlay])

    def names(data: bytes) -> list[str]:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return sorted(f"{member.type!r} {member.name}" for member in tar)

    assert names(layer) == names(theirs)


async def test_equal_trees_make_equal_layers_whatever_the_compression(trees: Trees, tmp_path: Path) -> None:
    for compression, decompress in (
        ("gzip", gzip.decompress),
        ("zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
        ("", bytes),
    ):
        first, answer = await diff([bind(trees.lower)], [trees.overlay], tmp_path, compression=compression)
        second, again = await diff([bind(trees.lower)], [trees.overlay], tmp_path, compression=compression)
        assert first == second and answer == again
        assert answer["uncompressed"] == "sha256:" + hashlib.sha256(decompress(first)).hexdigest()
    nothing, _ = await diff([bind(trees.lower)], [bind(trees.lower)], tmp_path, compression="")
    assert nothing == bytes(1024)


async def test_no_time_is_later_than_told(trees: Trees, tmp_path: Path) -> None:
    latest = 1_550_000_000 * 10**9
    layer, _ = await diff([bind(trees.lower)], [trees.overlay], tmp_path, compression="", latest=latest)
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        times = [member.mtime for member in tar]
    assert max(times) == 1_550_000_000


async def test_a_view_of_several_layers_and_a_base_of_nothing(trees: Trees, tmp_path: Path) -> None:
    view = Mount("overlay", "overlay", ["index=off", f"lowerdir={tmp_path}/upper:{trees.lower}"])
    by_view, _ = await diff([bind(trees.lower, "ro")], [view], tmp_path)
    by_active, _ = await diff([bind(trees.lower, "ro")], [trees.overlay], tmp_path)
    assert by_view == by_active
    empty = tmp_path / "empty"
    empty.mkdir()
    whole, _ = await diff([bind(empty)], [view], tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    await apply(whole, [bind(target)], tmp_path)
    assert comparable(read_tree(target)) == comparable(merged(trees.overlay, trees.shown))
    nothing, _ = await diff([], [view], tmp_path)
    assert nothing == whole


async def test_renamed_directories(tmp_path: Path) -> None:
    """With redirect_dir a renamed directory is a mark in the upper one, and its contents stay in the lower."""
    lower, shown = tmp_path / "lower", tmp_path / "shown"
    lower.mkdir()
    shown.mkdir()
    await apply(archive([*BASE, entry("a/x", data=b"")]), [bind(lower)], tmp_path)
    mount = overlay(tmp_path, [lower])
    options = ",".join([*mount.options, "redirect_dir=on"])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, shown], check=True)
    try:
        shutil.rmtree(shown / "etc")
        os.rename(shown / "a", shown / "etc")
        layer, _ = await diff(
            [bind(lower)], [Mount("overlay", "overlay", [*mount.options, "redirect_dir=on"])], tmp_path
        )
        limited, _ = await diff([bind(lower)], [bind(shown)], tmp_path)
        wanted = comparable(read_tree(shown))
    finally:
        subprocess.run(["umount", shown], check=True)
    assert layer == limited
    await apply(layer, [bind(lower)], tmp_path)
    assert comparable(read_tree(lower)) == wanted


async def test_names_that_would_be_whiteouts_are_refused(tmp_path: Path) -> None:
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    (tmp_path / "right/.wh.x").touch()
    with pytest.raises(FailedPrecondition, match=r"\.wh\.x"):
        await diff([bind(tmp_path / "left")], [bind(tmp_path / "right")], tmp_path)


names = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, D, S])
steps = st.lists(st.tuples(names, kinds, st.sampled_from([0o600, 0o755]), st.binary(max_size=2)), max_size=14)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=steps, second=steps, removed=st.lists(names, max_size=4), seed=st.integers())
async def test_any_two_trees(
    tmp_path_factory: pytest.TempPathFactory,
    first: Sequence[tuple[str, bytes, int, bytes]],
    second: Sequence[tuple[str, bytes, int, bytes]],
    removed: Sequence[str],
    seed: int,
) -> None:
    directory = tmp_path_factory.mktemp("two")
    left, right = directory / "left", directory / "right"
    left.mkdir()
    right.mkdir()
    for target, made in ((left, first), (right, second)):
        build(target, made)
    layer, _ = await diff([bind(left)], [bind(right)], directory)
    await apply(layer, [bind(left)], directory)
    assert comparable(read_tree(left)) == comparable(read_tree(right))


def build(root: Path, made: Sequence[tuple[str, bytes, int, bytes]]) -> None:
    for name, kind, mode, data in made:
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == D:
                path.mkdir(mode)
            elif kind == S:
                path.symlink_to(data.hex())
            else:
                with open(path, "xb") as file:
                    file.write(data)
                os.chmod(path, mode)
                os.utime(path, (0, random.Random(data).randrange(3)))
        except OSError:
            continue  # something else has the name

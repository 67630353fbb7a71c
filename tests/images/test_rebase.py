"""Layers unpacked side by side and then put over each other: the same as one after the other."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images.peer import Peer
from tests.images.trees import Tree, archive, entry, read_tree
from tests.images.worker import alone, apply, bind, overlay, settle
from wherry.errors import Error, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers need root")

D, L, S = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
Entries = Sequence[tuple[tarfile.TarInfo, bytes]]

BELOW: Entries = [
    entry("etc", D, mode=0o2750, uid=7, gid=8, pax_headers={"SCHILY.xattr.user.below": "1", "mtime": "1400000000.5"}),
    entry("etc/deep", D, mode=0o1777, uid=3_000_000, gid=9),
    entry("etc/deep/file", data=b"deep", mode=0o4755, uid=11),
    entry("etc/passwd", data=b"root", mode=0o640, pax_headers={"SCHILY.xattr.user.file": "f", "mtime": "99.25"}),
    entry("etc/link", S, linkname="passwd"),
    entry("etc/fifo", tarfile.FIFOTYPE, mode=0o600),
    entry("lib", S, linkname="usr/lib"),
    entry("usr/lib", D, mode=0o711),
    entry("usr/lib/so", data=b"so"),
    entry("hidden", D),
    entry("hidden/sub", D, mode=0o700, uid=5),
    entry("hidden/sub/file", data=b"hidden"),
    entry("gone", data=b"gone"),
]

#: Later than any time in the archives.
NOW = 1_600_000_000_000_000_000

#: What a layer may say of others below it, in ways that matter.
LAYERS: dict[str, Entries] = {
    "implicit": [entry("etc/deep/new", data=b"1")],
    "implicit, described later": [
        entry("etc/deep/new", data=b"1"),
        entry("etc/deep", D, mode=0o500, uid=1),
        entry("etc", D, mode=0o501, pax_headers={"SCHILY.xattr.user.own": "2"}),
    ],
    "implicit, replaced by a file, and made again": [
        entry("etc/deep/new", data=b"1"),
        entry("etc/deep", data=b"file"),
        entry("etc/deep", D, mode=0o700),
        entry("etc/deep/again", data=b"2"),
    ],
    "implicit, not below": [entry("opt/x/y", data=b"y")],
    "link": [entry("etc/hard", L, linkname="etc/passwd", mode=0o600, mtime=5)],
    "links to links": [
        entry("one", L, linkname="etc/passwd", mode=0o600),
        entry("two", L, linkname="one", mode=0o604, uid=4),
        entry("etc/deep/three", L, linkname="/two", mode=0o644),
    ],
    "link replaced": [
        entry("one", L, linkname="etc/passwd", mode=0o600),
        entry("two", L, linkname="one", mode=0o604),
        entry("one", data=b"other"),
        entry("three", L, linkname="one", mode=0o644),
    ],
    "link replaced by a directory": [
        entry("etc/link", L, linkname="etc/passwd"),
        entry("etc/link", D),
        entry("etc/link/in", data=b"in"),
    ],
    "link instead of a file and a directory": [
        entry("etc/deep/x", data=b"x"),
        entry("etc/deep", L, linkname="etc/passwd"),
        entry("gone", data=b"not any more"),
        entry("gone", L, linkname="etc/passwd"),
    ],
    "link whose file is replaced": [
        entry("one", L, linkname="etc/passwd"),
        entry("etc/passwd", data=b"new", mode=0o611),
        entry("two", L, linkname="etc/passwd", mode=0o622),
    ],
    "link in a directory that goes": [
        entry("etc/deep/one", L, linkname="etc/passwd"),
        entry("etc/two", L, linkname="etc/deep/one"),
        entry("etc/deep", data=b"file"),
    ],
    "link, then what it leads to is removed": [
        entry("one", L, linkname="etc/passwd"),
        entry("etc/.wh.passwd"),
        entry("hidden/two", L, linkname="hidden/sub/file"),
        entry("hidden/.wh..wh..opq"),
    ],
    "link removed from below": [entry("gone", L, linkname="etc/passwd"), entry(".wh.gone")],
    "link over a removal": [entry(".wh.gone"), entry("gone", L, linkname="etc/passwd")],
    "link of a mode that chown clears": [entry("one", L, linkname="etc/deep/file", mode=0o4755, uid=11)],
    "link to other kinds": [
        entry("one", L, linkname="etc/link", mode=0o777),
        entry("two", L, linkname="etc/fifo", mode=0o644),
    ],
    "through a link of this layer": [entry("way", S, linkname="/etc/deep"), entry("hard", L, linkname="way/file")],
    "opaque": [
        entry("hidden", D),
        entry("hidden/.wh..wh..opq"),
        entry("hidden/sub/new", data=b"1"),
    ],
    "opaque, with removals before and after": [
        entry("hidden/.wh.sub"),
        entry("hidden/.wh..wh..opq"),
        entry("hidden/.wh.sub"),
        entry("hidden/.wh.never"),
    ],
    "a removal in what is removed": [entry("hidden/sub/.wh.file"), entry(".wh.hidden")],
    "a removal in what is opaque": [entry("hidden/sub/.wh.file"), entry("hidden/.wh..wh..opq")],
    "names that are no text": [
        entry("etc/\udcff/new", data=b"1"),
        entry("etc/\udcfe", L, linkname="etc/passwd"),
        entry("etc/\udcfd", L, linkname="etc/\udcfe"),
    ],
    "removed and made again": [entry(".wh.hidden"), entry("hidden/sub/new", data=b"1")],
    "a file and a directory of one name": [
        entry("hidden", data=b"file"),
        entry("hidden", D, mode=0o750),
        entry("hidden/sub/new", data=b"1"),
    ],
}


@contextmanager
def shown(directories: Sequence[Path], at: Path) -> Iterator[Path]:
    """Directories, top first, as an overlay shows them."""
    at.mkdir(exist_ok=True)
    lowers = ":".join(map(str, directories))
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,index=off,lowerdir={lowers}", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def seen(directories: Sequence[Path], at: Path) -> Tree:
    if len(directories) == 1:
        (at.parent / "nothing").mkdir(exist_ok=True)
        directories = [*directories, at.parent / "nothing"]
    with shown(directories, at) as root:
        tree = read_tree(root)
    for found in tree.values():
        found["xattrs"] = {k: v for k, v in found["xattrs"].items() if not k.startswith("trusted.overlay.")}
    return tree


def without_now(tree: Tree) -> Tree:
    """A tree without the times that no archive has given."""
    return {path: {k: v for k, v in found.items() if k != "mtime" or v < NOW} for path, found in tree.items()}


def without_times(tree: Tree) -> Tree:
    """A tree without the times of directories, which change with what is in them."""
    return {
        path: {k: v for k, v in found.items() if k != "mtime" or not found["mode"].startswith("0o4")}
        for path, found in tree.items()
    }


async def side_by_side(layers: Sequence[bytes], directory: Path) -> list[Path]:
    """Unpack layers, the last one first, and settle them in order. Returns their directories, top first."""
    directories = [directory / f"layer-{number}" for number in range(len(layers))]
    for number in reversed(range(len(layers))):
        await apply(layers[number], [alone(directories[number])], directory)
    done: list[Path] = []
    for each in directories:
        await settle(each, done)
        done.insert(0, each / "fs")
    return done


@pytest.mark.parametrize("name", list(LAYERS))
async def test_side_by_side_as_one_after_the_other(name: str, tmp_path: Path) -> None:
    below, layer = archive(BELOW), archive(LAYERS[name])
    lower, plain = tmp_path / "lower", tmp_path / "plain"
    for directory, layers in ((lower, [below]), (plain, [below, layer])):
        directory.mkdir()
        for each in layers:
            await apply(each, [bind(directory)], tmp_path)
    await apply(layer, [overlay(tmp_path, [lower])], tmp_path)
    directories = await side_by_side([below, layer], tmp_path)
    # The same in the upper directory to the last attribute and time, its own directories' included ...
    assert without_now(read_tree(directories[0])) == without_now(read_tree(tmp_path / "upper"))
    # ... and over the lower one the same as a tree that is changed in place.
    assert without_times(seen(directories, tmp_path / "merged")) == without_times(read_tree(plain))


async def test_directories_keep_what_is_below(tmp_path: Path) -> None:
    layer = archive([entry("etc/deep/new", data=b"1")])
    merged = seen(await side_by_side([archive(BELOW), layer], tmp_path), tmp_path / "merged")
    assert merged["etc"] == {
        "mode": "0o42750",
        "owner": (7, 8),
        "mtime": 1_400_000_000_500_000_000,
        "xattrs": {"user.below": b"1"},
    }
    assert merged["etc/deep"]["owner"] == (3_000_000, 9)


async def test_a_sparse_file_stays_one(tmp_path: Path) -> None:
    """Also when it is copied for a link from above."""
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as file:
        file.truncate(5 << 20)
        file.seek(3 << 20)
        file.write(b"x" * 5000)
    packed = subprocess.run(["tar", "--sparse", "-C", source, "-cf", "-", "sparse"], check=True, capture_output=True)
    upper, lower = await side_by_side([packed.stdout, archive([entry("hard", L, linkname="sparse")])], tmp_path)
    for path in (lower / "sparse", upper / "sparse", upper / "hard"):
        assert path.read_bytes() == (source / "sparse").read_bytes()
        assert path.stat().st_blocks * 512 < 1 << 20
    assert os.path.samefile(upper / "hard", upper / "sparse")


async def test_a_link_to_what_no_layer_has(tmp_path: Path) -> None:
    for number, (linkname, words) in enumerate(
        (("absent", "no layer has"), ("etc", "directory"), ("etc/absent", "no layer has"), ("gone", "no layer has"))
    ):
        upper = tmp_path / str(number)
        lowers = [tmp_path / f"above-{number}", tmp_path / f"below-{number}"]
        for lower, entries in zip(lowers, ([entry(".wh.gone")], BELOW), strict=True):
            await apply(archive(entries), [alone(lower)], tmp_path)
        await apply(archive([entry("hard", L, linkname=linkname)]), [alone(upper)], tmp_path)
        with pytest.raises(Unknown, match=f'layer entry "hard".*{words}'):
            await settle(upper, [lower / "fs" for lower in lowers])
        assert (upper / "pending.json").exists()


async def test_what_this_layer_has_hidden_cannot_be_linked_to(tmp_path: Path) -> None:
    for number, entries in enumerate(
        (
            [entry(".wh.gone"), entry("hard", L, linkname="gone")],
            [entry("hidden/.wh..wh..opq"), entry("hard", L, linkname="hidden/sub/file")],
            [entry("one", L, linkname="gone"), entry("one/below", data=b"")],
        )
    ):
        with pytest.raises(Error, match="layer entry"):
            await apply(archive(entries), [alone(tmp_path / str(number))], tmp_path)


async def test_nothing_pending_leaves_no_record(tmp_path: Path) -> None:
    await apply(archive(BELOW[:3]), [alone(tmp_path)], tmp_path)
    assert not (tmp_path / "pending.json").exists()
    await settle(tmp_path, [])


async def test_settling_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    """Killed after the last step but the record's removal, and before the first."""
    layer = archive([*LAYERS["links to links"], *LAYERS["implicit"]])
    lower = tmp_path / "lower"
    await apply(archive(BELOW), [alone(lower)], tmp_path)
    await settle(lower, [])
    upper = tmp_path / "layer"
    await apply(layer, [alone(upper)], tmp_path)
    record = (upper / "pending.json").read_bytes()
    await settle(upper, [lower / "fs"])
    once = read_tree(upper / "fs")
    (upper / "pending.json").write_bytes(record)
    await settle(upper, [lower / "fs"])
    assert read_tree(upper / "fs") == once


@pytest.mark.parametrize("kind", ["absolute", "up"])
async def test_nothing_below_leads_out(kind: str, tmp_path: Path) -> None:
    """Links in a lower layer that point out of it are followed within it."""
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").write_bytes(b"secret")
    linkname = str(secret) if kind == "absolute" else "../" * 20 + str(secret).lstrip("/")
    lower, upper = tmp_path / "lower", tmp_path / "layer"
    await apply(archive([entry("way", S, linkname=linkname)]), [alone(lower)], tmp_path)
    layer = archive([entry("way/new", data=b"1"), entry("hard", L, linkname="way/file")])
    await apply(layer, [alone(upper)], tmp_path)
    with pytest.raises(Unknown, match="hard"):
        await settle(upper, [lower / "fs"])
    assert not (upper / "fs" / "hard").exists()


# Any images at all, against containerd.

names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, D, D, D, S, L, L, tarfile.FIFOTYPE, tarfile.CHRTYPE])
steps = st.tuples(names, kinds, st.integers(0, 0o7777), st.integers(0, 3), names, st.integers(0, 9))
removals = st.one_of(st.none(), names, names.map(lambda name: name + "/"))


def generated(number: int, made: Sequence[Any], removed: Sequence[str | None]) -> bytes:
    """A layer: what it removes first, so that nobody can take it to be about the layer itself."""
    entries = []
    for name in removed:
        if name is not None and name.endswith("/"):
            entries.append(entry(f"{name}.wh..wh..opq"))
        elif name is not None:
            head, _, base = name.rpartition("/")
            entries.append(entry(f"{head}/.wh.{base}" if head else f".wh.{base}"))
    for name, kind, mode, owner, linkname, age in made:
        headers = {"mtime": f"{1_000_000_000 + age}.{number}5"}
        if age == 7:
            headers["SCHILY.xattr.user.layer"] = str(number)
        data = b"%d %d" % (number, age) * age if kind == tarfile.REGTYPE else b""
        info = entry(name, kind, data, mode=mode, uid=owner, linkname=linkname, pax_headers=headers, devmajor=1)
        entries.append(info)
    return archive(entries)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(layers=st.lists(st.tuples(st.lists(steps, max_size=9), st.lists(removals, max_size=3)), min_size=2, max_size=4))
async def test_any_image_side_by_side_as_containerd_in_order(
    tmp_path_factory: pytest.TempPathFactory, peer: Peer, layers: Sequence[tuple[Sequence[Any], Sequence[str | None]]]
) -> None:
    """Every kind of file, removal and link, unpacked last layer first: the tree that containerd makes, in order, of
    the same image in one directory; and what our own overlay has when it is unpacked in order."""
    tmp_path = tmp_path_factory.mktemp("any")
    made = [generated(number, *layer) for number, layer in enumerate(layers)]
    in_order: list[Path] = []
    plain, theirs = tmp_path / "plain", tmp_path / "theirs"
    for directory in (plain, theirs):
        directory.mkdir()
    for number, layer in enumerate(made):
        directory = tmp_path / f"ordered-{number}"
        try:
            if in_order:
                await apply(layer, [overlay(directory, in_order)], tmp_path)
            else:
                (directory / "upper").mkdir(parents=True)
                await apply(layer, [bind(directory / "upper")], tmp_path)
        except Error:
            # A layer that is none. Side by side it may be one: a link to what is not there yet waits for the layers
            # below, and by then another entry may have taken its place.
            with contextlib.suppress(Error):
                await side_by_side(made[: number + 1], tmp_path)
            return
        in_order.insert(0, directory / "upper")
    directories = await side_by_side(made, tmp_path)
    assert without_times(seen(directories, tmp_path / "merged")) == without_times(seen(in_order, tmp_path / "merged"))
    try:
        for layer in made:
            await apply(layer, [bind(plain)], tmp_path)
            await peer.apply(layer, [bind(theirs)])
    except Error:
        return  # a link to a link, or a name through one, that only the merged tree shows
    assert without_times(read_tree(plain)) == without_times(read_tree(theirs))
    if not any(kind == S for made, _ in layers for _, kind, *_ in made):
        # Names that lead through a symbolic link of a lower layer mean a directory in an upper one, here as there.
        assert without_times(seen(directories, tmp_path / "merged")) == without_times(read_tree(theirs))

"""Whole images, unpacked by wherry, by Debian's containerd and by umoci: the same trees."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.images.peer import Peer
from tests.images.test_rebase import seen, side_by_side, without_times
from tests.images.trees import Tree, archive, entry, read_tree
from tests.images.worker import apply, bind
from wherry.oci import digest as digests

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="layers need root"),
    pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci"),
    pytest.mark.timeout(600),
]

D, L, S = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE


def environment(files: int) -> list[bytes]:
    """Two layers like those of a Python virtual environment: many small files, and some of them changed above."""
    generator = random.Random(files)
    lower, upper = [], []
    root = "opt/venv/lib/python3.11/site-packages"
    for number in range(files):
        package = f"{root}/package{number % (files // 100 + 1)}"
        if number <= files // 100:
            lower.append(entry(package, D, mtime=1_400_000_000 + number))
        data = generator.randbytes(generator.randrange(40))
        headers = {"mtime": f"{1_400_000_000 + number}.{number:09}"}
        lower.append(entry(f"{package}/module{number}.py", data=data, pax_headers=headers))
        if number % 50 == 0:
            # What it says of itself is what its file is: umoci takes no more from a link.
            lower.append(
                entry(f"opt/venv/bin/script{number}", L, linkname=f"{package}/module{number}.py", pax_headers=headers)
            )
        if number % 97 == 0:
            upper.append(entry(f"{package}/__pycache__/module{number}.pyc", data=data * 2))
            upper.append(entry(f"{package}/.wh.module{number + 1}.py"))
    return [archive(lower), archive(upper)]


CAPABILITY = {"SCHILY.xattr.security.capability": "\x01\0\0\x02\0 \0\0" + "\0" * 12}

#: Everything that an archive may hold, each kind once.
RICH = [
    entry("bin", D, mode=0o755),
    entry("bin/busybox", data=b"\x7fELF" + os.urandom(5000), mode=0o4755),
    *(entry(f"bin/{name}", L, linkname="bin/busybox", mode=0o4755) for name in ("sh", "ls", "cat")),
    entry(
        "bin/ping",
        data=b"p",
        mode=0o755,
        pax_headers={"SCHILY.xattr.security.capability": "\x01\0\0\x02\0 \0\0" + "\0" * 12},
    ),
    entry("home", D, mode=0o2775, uid=1000, gid=2_500_000),
    entry("home/file", data=b"f", uid=4_000_000_000, gid=2_097_152, pax_headers={"mtime": "1400000000.123456789"}),
    entry("tmp", D, mode=0o1777),
    entry("dev", D),
    entry("dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
    entry("dev/loop", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=7, devminor=300),
    entry("run", tarfile.FIFOTYPE, mode=0o600),
    entry("long/" + "/".join(["n" * 200] * 4), data=b"long"),
    entry("link", S, linkname="x" * 300, uid=12),
    entry("attributes", data=b"a", pax_headers={"SCHILY.xattr.user.one": "1", "SCHILY.xattr.user.two": "z"}),
    entry("old", data=b"o", mtime=0),
]
CHANGES = [
    entry("bin/.wh.cat"),
    # A file with one name: of several, overlayfs would keep the others as they are.
    entry("bin/new", L, linkname="old", mtime=0),
    entry("home/.wh..wh..opq"),
    entry("home", D, mode=0o2775, uid=1000, gid=2_500_000),
    entry("home/other", data=b"2", uid=1000),
    entry("long", data=b"a file now"),
]


def layout(layers: list[bytes], directory: Path) -> Path:
    """An image of these layers as an OCI layout."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, object]:
        digest = digests.of(data)
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    oci = "application/vnd.oci.image"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digests.of(each) for each in layers]},
        "config": {},
        "history": [{"created_by": "test"} for _ in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode(), f"{oci}.config.v1+json"),
        "layers": [put(gzip.compress(each, 1), f"{oci}.layer.v1.tar+gzip") for each in layers],
    }
    described = put(json.dumps(manifest).encode(), f"{oci}.manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return directory


async def unpacked(layers: list[bytes], peer: Peer, tmp_path: Path) -> dict[str, Tree]:
    """The trees that each makes of an image, in every way that we have."""
    plain, theirs = tmp_path / "plain", tmp_path / "theirs"
    for directory in (plain, theirs):
        directory.mkdir()
    for layer in layers:
        packed = gzip.compress(layer, 1)
        await apply(packed, [bind(plain)], tmp_path)
        await peer.apply(packed, [bind(theirs)])
    directories = await side_by_side([gzip.compress(layer, 1) for layer in layers], tmp_path)
    image = layout(layers, tmp_path / "layout")
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{image}:latest", bundle], check=True, capture_output=True)
    return {
        "containerd": read_tree(theirs),
        "plain": read_tree(plain),
        "side by side": seen(directories, tmp_path / "merged"),
        "umoci": read_tree(bundle / "rootfs"),
    }


def check(trees: dict[str, Tree]) -> None:
    theirs = without_times(trees["containerd"])
    assert without_times(trees["plain"]) == theirs
    assert without_times(trees["side by side"]) == theirs
    for tree in trees.values():
        for found in tree.values():
            found["xattrs"].pop("user.umoci", None)
    # umoci makes the directories of nobody's description 0755 as well, and keeps nothing that we do not.
    assert without_times(trees["umoci"]) == theirs


async def test_everything_that_an_archive_may_hold(tmp_path: Path, peer: Peer) -> None:
    check(await unpacked([archive(RICH), archive(CHANGES)], peer, tmp_path))


async def test_times_of_directories(tmp_path: Path, peer: Peer) -> None:
    """Those that the archive gives, to the nanosecond, whatever was put into the directories afterwards."""
    headers = {"mtime": "1400000000.987654321"}
    layers = [
        archive([entry("d", D, pax_headers=headers), entry("d/e", D, pax_headers=headers), entry("d/e/f", data=b"1")]),
        archive([entry("d/e/g", data=b"2"), entry("d/e/hard", L, linkname="d/e/f")]),
    ]
    trees = await unpacked(layers, peer, tmp_path)
    assert trees["side by side"]["d"]["mtime"] == trees["side by side"]["d/e"]["mtime"] == 1_400_000_000_987_654_321
    first = without_times(trees["containerd"])
    assert first == without_times(trees["side by side"])


async def test_busybox(tmp_path: Path, peer: Peer) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy2("/bin/busybox", tree / "bin/busybox")
    for name in subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split():
        if name != "busybox":
            os.link(tree / "bin/busybox", tree / "bin" / name)
    layer = subprocess.run(["tar", "-C", tree, "-cf", "-", "."], check=True, capture_output=True).stdout
    check(await unpacked([layer], peer, tmp_path))


@pytest.mark.parametrize("files", [2_000, pytest.param(50_000, marks=pytest.mark.long)])
async def test_an_environment_of_many_files(files: int, tmp_path: Path, peer: Peer) -> None:
    check(await unpacked(environment(files), peer, tmp_path))


@pytest.mark.long
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="needs mmdebstrap")
async def test_debian(tmp_path: Path, peer: Peer) -> None:
    made = tmp_path / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,perl,git,gcc", "bookworm", str(made)]
    subprocess.run(command, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
    check(await unpacked([made.read_bytes()], peer, tmp_path))

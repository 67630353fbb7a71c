"""Images made of a root file system's tar."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.client.image_archives import COMPRESSIONS, Archives, run
from tests.client.places import Place
from wherry.client.images import descriptor_of
from wherry.client.rootfs_image import RootfsOptions, configured
from wherry.errors import InvalidArgument
from wherry.oci.platform import Platform


@pytest.fixture(scope="session")
def rootfs_tar(archives: Archives) -> Path:
    path = archives.directory / "rootfs.tar"
    run("tar", "-C", archives.rootfs, "-cf", path, ".")
    return path


@pytest.mark.parametrize(
    ("name", "suffix"), [("", ""), ("gzip", "+gzip"), ("zstd", "+zstd"), ("xz", ""), ("bzip2", "")]
)
async def test_a_rootfs_becomes_an_image_that_runs(name: str, suffix: str, rootfs_tar: Path, place: Place) -> None:
    plain = rootfs_tar.read_bytes()
    packed = COMPRESSIONS[name](plain) if name else plain
    steps: list[str] = []
    options = RootfsOptions(changes=["CMD echo from its command"], comment="a test", on_step=steps.append)
    image = await place.images.import_rootfs(io.BytesIO(packed), "any name", options)
    manifest = await place.images.manifest(descriptor_of(image))
    (layer,) = manifest.manifest.layers
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar" + suffix
    assert steps == [f"layer {layer.digest}", f"unpack layer {layer.digest}"]
    assert manifest.platform == Platform.host()
    assert manifest.config["config"] == {"Cmd": ["/bin/sh", "-c", "echo from its command"]}
    assert manifest.config["history"][0]["comment"] == "a test"
    shown = place.daemon.ctr("run", "--rm", "any name", place.daemon.id(), namespace=place.namespace).check()
    assert shown.text == "from its command\n"


async def test_the_image_exports_and_others_take_it(rootfs_tar: Path, place: Place, tmp_path: Path) -> None:
    with open(rootfs_tar, "rb") as file:
        await place.images.import_rootfs(file, "a.b/c:d", RootfsOptions(unpack=False))
    archive = tmp_path / "image.tar"
    with open(archive, "wb") as destination:
        await place.images.export(["a.b/c:d"], destination)
    assert (
        json.loads(run("skopeo", "inspect", f"oci-archive:{archive}"))["Architecture"] == Platform.host().architecture
    )
    layout = tmp_path / "layout"
    layout.mkdir()
    run("tar", "-C", layout, "-xf", archive)
    run("umoci", "--log=error", "unpack", "--image", f"{layout}:d", tmp_path / "bundle")
    assert os.readlink(tmp_path / "bundle/rootfs/bin/sh") == "busybox"
    assert (await place.state())["snapshots"] == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"short", "too short"),
        (b"x" * 5000, "not a tar archive"),
        (bytes.fromhex("1f8b0800000000000003") + b"\xff" * 600, "gzip"),
        (bytes.fromhex("28b52ffd") + b"\xff" * 600, "zstd"),
    ],
)
async def test_what_is_no_tar_is_refused(data: bytes, words: str, place: Place) -> None:
    with pytest.raises(InvalidArgument, match=words):
        await place.images.import_rootfs(io.BytesIO(data), "x")
    assert await place.half_made() == []


async def test_a_truncated_tar_is_refused(rootfs_tar: Path, place: Place) -> None:
    data = rootfs_tar.read_bytes()[:200_000]
    with pytest.raises(Exception, match="unpack layer sha256:"):
        await place.images.import_rootfs(io.BytesIO(data), "x")
    packed = gzip.compress(data)
    with pytest.raises(InvalidArgument, match=r"^gzip: unexpected end"):
        await place.images.import_rootfs(io.BytesIO(packed[:-50]), "x")
    assert await place.half_made() == []
    with pytest.raises(InvalidArgument, match="must not be empty"):
        await place.images.import_rootfs(io.BytesIO(data), "")


def test_changes_are_dockerfile_instructions() -> None:
    assert configured(
        [
            'CMD ["a", "b c"]',
            "entrypoint echo $HOME",
            "ENV A=1 B='2 3'",
            "ENV A=4",
            "ENV OLD the old form",
            "LABEL x.y=z",
            "USER 1:2",
            "WORKDIR /srv",
            "STOPSIGNAL SIGINT",
            "EXPOSE 80 53/udp",
            'VOLUME ["/data"]',
        ]
    ) == {
        "Cmd": ["a", "b c"],
        "Entrypoint": ["/bin/sh", "-c", "echo $HOME"],
        "Env": ["B=2 3", "A=4", "OLD=the old form"],
        "Labels": {"x.y": "z"},
        "User": "1:2",
        "WorkingDir": "/srv",
        "StopSignal": "SIGINT",
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "Volumes": {"/data": {}},
    }


@pytest.mark.parametrize("change", ["", "CMD", "RUN ls", "ENV =x", "ENV A='", "LABEL a=b c"])
def test_other_changes_are_refused(change: str) -> None:
    with pytest.raises(InvalidArgument, match=f'change "{change}"'):
        configured([change])


async def test_nothing_is_asked_of_the_source_but_to_be_read(rootfs_tar: Path, place: Place) -> None:
    class Pipe:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file

        def read(self, size: int) -> bytes:
            return self._file.read(min(size, 777))

    with open(rootfs_tar, "rb") as file:
        image = await place.images.import_rootfs(Pipe(file), "piped", RootfsOptions(unpack=False))  # type: ignore[arg-type]
    manifest = await place.images.manifest(descriptor_of(image))
    assert manifest.manifest.layers[0].size == rootfs_tar.stat().st_size

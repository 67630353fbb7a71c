"""What we export: ctr's own archive byte for byte, and taken by every other tool."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.image_archives import Archives, LayoutBuilder, podman, run
from tests.client.places import Place
from wherry.client.archive_import import ImportOptions
from wherry.client.images import descriptor_of
from wherry.errors import DataLoss, InvalidArgument, NotFound
from wherry.oci.platform import Platform

NAME = "docker.io/library/busybox:1.0"


async def exported(place: Place, *names: str, **options: Any) -> bytes:
    archive = io.BytesIO()
    await place.images.export(names, archive, **options)
    return archive.getvalue()


@pytest.fixture
async def busybox(archives: Archives, place: Place) -> Place:
    """A place with an image."""
    with open(archives.paths["skopeo oci-archive"], "rb") as file:
        await place.images.import_archive(file)
    return place


@pytest.mark.parametrize(
    "names", [(NAME,), ("quay.io/a/b:t", NAME), ("foo:bar",), ("localhost:5000/x:1", "docker.io/library/y:2")]
)
async def test_an_export_is_ctrs_byte_for_byte(names: tuple[str, ...], busybox: Place, tmp_path: Path) -> None:
    for name in names:
        if name != NAME:
            await busybox.images.tag(NAME, name)
    theirs = tmp_path / "theirs.tar"
    busybox.daemon.ctr("images", "export", theirs, *names, namespace=busybox.namespace).check()
    assert await exported(busybox, *names) == theirs.read_bytes()


async def test_docker_archives_images_are_exported_as_ctr_does(
    archives: Archives, place: Place, tmp_path: Path
) -> None:
    with open(archives.paths["skopeo docker-archive"], "rb") as file:
        await place.images.import_archive(file)
    theirs = tmp_path / "theirs.tar"
    place.daemon.ctr("images", "export", theirs, NAME, namespace=place.namespace).check()
    assert await exported(place, NAME) == theirs.read_bytes()


async def test_an_export_imports_again_the_same(busybox: Place, new_place: Callable[[], Place]) -> None:
    await busybox.images.tag(NAME, "no Docker reference")
    archive = await exported(busybox, NAME, "no Docker reference")
    elsewhere = new_place()
    await elsewhere.images.import_archive(io.BytesIO(archive))
    theirs = {name: target["digest"] for name, (target, _) in (await elsewhere.state())["images"].items()}
    ours = {name: target["digest"] for name, (target, _) in (await busybox.state())["images"].items()}
    assert theirs == ours


async def test_other_tools_take_an_export(busybox: Place, tmp_path: Path) -> None:
    archive = tmp_path / "ours.tar"
    archive.write_bytes(await exported(busybox, NAME))
    inspected = json.loads(run("skopeo", "inspect", f"oci-archive:{archive}"))
    (image,) = await busybox.images.list()
    assert inspected["Digest"] == descriptor_of(image).digest
    run("skopeo", "copy", "-q", f"oci-archive:{archive}:1.0", f"dir:{tmp_path}/dir")
    run("skopeo", "copy", "-q", f"docker-archive:{archive}:{NAME}", f"oci:{tmp_path}/from-docker:x")
    layout = tmp_path / "layout"
    layout.mkdir()
    run("tar", "-C", layout, "-xf", archive)
    run("umoci", "--log=error", "unpack", "--image", f"{layout}:1.0", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/extra").read_text() == "a second layer\n"
    with podman() as command:
        assert NAME in run(*command, "load", "-i", archive)


async def test_an_untagged_name_is_latest_to_other_tools(busybox: Place, tmp_path: Path) -> None:
    await busybox.images.tag(NAME, "untagged")
    with tarfile.open(fileobj=io.BytesIO(await exported(busybox, "untagged"))) as archive:
        archive.extractall(tmp_path / "layout")
    assert run("umoci", "ls", "--layout", tmp_path / "layout").split() == ["latest"]


async def test_an_image_of_several_platforms(builder: LayoutBuilder, place: Place, tmp_path: Path) -> None:
    other = {"architecture": "s390x", "os": "linux"}
    host = {"architecture": Platform.host().architecture, "os": "linux"}
    here, there = builder.layer("here"), builder.layer("there")
    index = builder.index(
        [
            {**builder.manifest([there], **other), "platform": other},
            {**builder.manifest([here]), "platform": host},
        ]
    )
    path = builder.finish([index], "a.b/c:multi")
    with open(path, "rb") as file:
        await place.images.import_archive(file, ImportOptions(all_platforms=True))
    content = place.content

    async def layers(**options: Any) -> set[str]:
        data = await exported(place, "a.b/c:multi", **options)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = {name.replace("blobs/sha256/", "sha256:") for name in archive.getnames()}
            entries = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert index["digest"] in names
        (entry,) = entries
        assert all(layer.replace("blobs/sha256/", "sha256:") in names for layer in entry["Layers"])
        return names & {here["digest"], there["digest"]}

    assert await layers() == {here["digest"]}
    assert await layers(platform=Platform.parse("s390x")) == {there["digest"]}
    assert await layers(all_platforms=True) == {here["digest"], there["digest"]}
    archive = tmp_path / "host.tar"
    archive.write_bytes(await exported(place, "a.b/c:multi"))
    run("skopeo", "copy", "-q", f"oci-archive:{archive}:multi", f"dir:{tmp_path}/dir")
    await content.delete(there["digest"])
    assert await layers() == {here["digest"]}
    with pytest.raises(NotFound, match=there["digest"]):
        await layers(all_platforms=True)
    with pytest.raises(NotFound, match="for linux/riscv64"):
        await layers(platform=Platform.parse("linux/riscv64"))


async def test_nothing_is_written_for_what_cannot_be_exported(busybox: Place, archives: Archives) -> None:
    archive = io.BytesIO()
    with pytest.raises(InvalidArgument, match="no image is named"):
        await busybox.images.export([], archive)
    with pytest.raises(NotFound, match='image "absent"'):
        await busybox.images.export([NAME, "absent"], archive)
    manifest = await busybox.images.manifest(descriptor_of(await busybox.images.get(NAME)))
    await busybox.content.delete(manifest.manifest.layers[0].digest)
    with pytest.raises(NotFound, match=f"blob {manifest.manifest.layers[0].digest} of image {NAME}"):
        await busybox.images.export([NAME], archive)
    assert archive.getvalue() == b""


def test_a_blob_of_another_length_is_no_archive() -> None:
    from wherry.client.archive_export import _ArchiveWriter

    writer = _ArchiveWriter(io.BytesIO())
    writer.begin("x", 3, 0o644)
    writer.write(b"ab")
    with pytest.raises(DataLoss, match="x: 1 bytes are missing"):
        writer.end()
    with pytest.raises(DataLoss, match="x: more bytes"):
        writer.write(b"cd")

"""Archives of every maker, imported by ours into a real containerd, beside ctr's import of the same."""

from __future__ import annotations

import io
import os
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.image_archives import Archives, LayoutBuilder
from tests.client.places import Place
from wherry.client.archive_import import ImportOptions
from wherry.client.content import PIECE, Content
from wherry.client.images import descriptor_of
from wherry.client.leases import Leases
from wherry.errors import Error, FailedPrecondition, InvalidArgument, NotFound
from wherry.oci.platform import Platform

FORMS = (
    "umoci layout",
    "tar of a layout",
    "skopeo oci-archive",
    "skopeo oci-archive, a tag only",
    "skopeo docker-archive",
    "docker-archive in gzip",
    "docker-archive in zstd",
    "docker-archive in bzip2",
    "docker-archive in xz",
    "podman docker-archive",
    "podman oci-archive",
    "as docker save 25",
)
#: What ctr has no way to read.
NOT_FOR_CTR = ("umoci layout", *(form for form in FORMS if " in " in form))


@pytest.mark.parametrize("form", FORMS)
async def test_import_makes_what_ctr_makes(form: str, archives: Archives, new_place: Callable[[], Place]) -> None:
    ours, theirs = new_place(), new_place()
    path = archives.paths[form]
    if path.is_dir():
        made = await ours.images.import_archive(str(path))
    else:
        with open(path, "rb") as file:
            made = await ours.images.import_archive(file)
    comparable = path
    if form in NOT_FOR_CTR:
        comparable = archives.paths["tar of a layout" if path.is_dir() else "skopeo docker-archive"]
    ours.daemon.ctr("images", "import", comparable, namespace=theirs.namespace).check()
    found, expected = await ours.state(), await theirs.state()
    assert found["images"] == expected["images"]
    assert [image.name for image in made] == list(expected["images"])
    assert found["snapshots"] == expected["snapshots"]
    # ctr stores every member of an archive, and collects those that nothing refers to later.
    kept = {digest: expected["content"].get(digest) for digest in found["content"] if digest in expected["content"]}
    assert {digest: each for digest, each in found["content"].items() if each[1]} == {
        digest: each for digest, each in kept.items() if each[1]
    }
    assert not await Leases(ours.channel, ours.namespace).list()


async def test_import_from_a_pipe(archives: Archives, place: Place) -> None:
    reader, writer = os.pipe()

    def feed() -> None:
        with open(writer, "wb", buffering=0) as pipe:
            for byte in data[:20]:
                pipe.write(bytes([byte]))
            pipe.write(data[20:])

    data = archives.paths["docker-archive in gzip"].read_bytes()
    thread = threading.Thread(target=feed)
    thread.start()
    with open(reader, "rb", buffering=0) as pipe:
        (image,) = await place.images.import_archive(pipe)
    thread.join()
    assert image.name == "docker.io/library/busybox:1.0"


async def test_an_image_is_imported_again_and_elsewhere(
    archives: Archives, place: Place, new_place: Callable[[], Place]
) -> None:
    for where in (place, place, new_place()):
        with open(archives.paths["skopeo oci-archive"], "rb") as file:
            await where.images.import_archive(file)
        before = await where.state()
    assert before == await place.state()


async def test_names(archives: Archives, builder: LayoutBuilder, place: Place) -> None:
    path = archives.paths["skopeo oci-archive, a tag only"]

    async def names(path: Path, **options: Any) -> list[str]:
        with open(path, "rb") as file:
            return [image.name for image in await place.images.import_archive(file, ImportOptions(**options))]

    assert (await names(path))[0].startswith("import-20")
    assert await names(path, base_name="a.b/c") == ["a.b/c:v1"]
    assert await names(path, name="any thing") == ["any thing"]
    assert await names(archives.paths["skopeo oci-archive"], base_name="a.b/c") == ["docker.io/library/busybox:1.0"]
    nameless = builder.finish([builder.manifest([builder.layer("x")])], name="")
    with pytest.raises(InvalidArgument, match="names none"):
        await names(nameless)
    assert await names(nameless, name="given") == ["given"]
    several = builder.finish([builder.manifest([builder.layer("x")]), builder.manifest([builder.layer("y")])])
    with pytest.raises(InvalidArgument, match="2 images"):
        await names(several, name="given")


async def test_an_image_of_several_platforms(builder: LayoutBuilder, new_place: Callable[[], Place]) -> None:
    other = {"architecture": "s390x", "os": "linux"}
    host = {"architecture": Platform.host().architecture, "os": "linux"}
    here, there = builder.layer("here"), builder.layer("there")
    index = builder.index(
        [
            {**builder.manifest([there], **other), "platform": other},
            {**builder.manifest([here]), "platform": host},
            {**builder.manifest([]), "platform": {"architecture": "unknown", "os": "unknown"}},
        ]
    )
    path = builder.finish([index])

    async def unpacked(**options: Any) -> list[str]:
        place = new_place()
        with open(path, "rb") as file:
            await place.images.import_archive(file, ImportOptions(**options))
        (image,) = await place.images.list()
        assert descriptor_of(image).digest == index["digest"]
        return list((await place.state())["snapshots"])

    assert await unpacked() == [here["digest"]]
    assert await unpacked(platform=Platform.parse("linux/s390x")) == [there["digest"]]
    assert await unpacked(all_platforms=True) == [here["digest"]]
    assert await unpacked(all_platforms=True, unpack=False) == []
    # The other platform's layer need not be there, unless it is asked for.
    builder.path(there).unlink()
    path = builder.finish([index])
    assert await unpacked() == [here["digest"]]
    with pytest.raises(NotFound, match=there["digest"]):
        await unpacked(all_platforms=True)


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


Damage = Callable[[LayoutBuilder, Path], Path]


def _nothing(builder: LayoutBuilder, empty: Path) -> Path:
    return empty


def _noise(builder: LayoutBuilder, empty: Path) -> Path:
    empty.write_bytes(random.Random(1).randbytes(100_000))
    return empty


def _no_image(builder: LayoutBuilder, empty: Path) -> Path:
    (builder.directory / "oci-layout").unlink()
    return builder.finish([])


def _no_index(builder: LayoutBuilder, empty: Path) -> Path:
    path = builder.finish([])
    (builder.directory / "index.json").unlink()
    os.system(f"tar -C {builder.directory} -cf {path} .")
    return path


def _empty_index(builder: LayoutBuilder, empty: Path) -> Path:
    return builder.finish([])


def _truncated(builder: LayoutBuilder, empty: Path) -> Path:
    path = builder.finish([builder.manifest([builder.layer("x" * 3_000_000)])])
    os.truncate(path, 2_500_000)
    return path


def _truncated_gzip(builder: LayoutBuilder, empty: Path) -> Path:
    path = builder.finish([builder.manifest([builder.layer("x" * 3_000_000)])])
    os.system(f"gzip -f {path}")
    path = path.with_name(path.name + ".gz")
    os.truncate(path, path.stat().st_size - 100)
    return path


def _changed_layer(builder: LayoutBuilder, empty: Path) -> Path:
    layer = builder.layer("x" * 3_000_000)
    _flip(builder.path(layer), 2_000_000)
    return builder.finish([builder.manifest([layer])])


def _changed_manifest(builder: LayoutBuilder, empty: Path) -> Path:
    manifest = builder.manifest([builder.layer("x")])
    _flip(builder.path(manifest), 30)
    return builder.finish([manifest])


def _missing_layer(builder: LayoutBuilder, empty: Path) -> Path:
    layer = builder.layer("x")
    manifest = builder.manifest([layer])
    builder.path(layer).unlink()
    return builder.finish([manifest])


def _missing_config(builder: LayoutBuilder, empty: Path) -> Path:
    path = builder.finish([builder.manifest([])])
    for blob in (builder.directory / "blobs/sha256").iterdir():
        if b"rootfs" in blob.read_bytes():
            blob.unlink()
    os.system(f"tar -C {builder.directory} -cf {path} .")
    return path


def _missing_manifest(builder: LayoutBuilder, empty: Path) -> Path:
    manifest = builder.manifest([builder.layer("x")])
    builder.path(manifest).unlink()
    return builder.finish([manifest])


def _wrong_size(builder: LayoutBuilder, empty: Path) -> Path:
    layer = builder.layer("x")
    return builder.finish([builder.manifest([{**layer, "size": layer["size"] + 1}])])


def _wrong_diff_id(builder: LayoutBuilder, empty: Path) -> Path:
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    return builder.finish([builder.manifest([builder.layer("x")], rootfs=rootfs)])


def _fewer_diff_ids(builder: LayoutBuilder, empty: Path) -> Path:
    return builder.finish([builder.manifest([builder.layer("x")], rootfs={"type": "layers", "diff_ids": []})])


def _other_platform(builder: LayoutBuilder, empty: Path) -> Path:
    return builder.finish([builder.manifest([builder.layer("x")], architecture="s390x")])


def _schema_1(builder: LayoutBuilder, empty: Path) -> Path:
    value = {"schemaVersion": 1, "name": "x", "fsLayers": []}
    return builder.finish([builder.document(value, "application/vnd.docker.distribution.manifest.v1+prettyjws")])


def _both(builder: LayoutBuilder, empty: Path) -> Path:
    value = {"schemaVersion": 2, "manifests": [], "config": {}, "layers": []}
    return builder.finish([builder.document(value, "application/vnd.oci.image.manifest.v1+json")])


def _no_json(builder: LayoutBuilder, empty: Path) -> Path:
    return builder.finish([builder.blob(b"{" * 100_000, "application/vnd.oci.image.manifest.v1+json")])


def _layer_is_no_tar(builder: LayoutBuilder, empty: Path) -> Path:
    layer = builder.blob(b"no tar archive, though long enough to be one" * 50, "application/vnd.oci.image.layer.v1.tar")
    return builder.finish([builder.manifest([layer])])


def _bad_digest(builder: LayoutBuilder, empty: Path) -> Path:
    path = builder.finish([builder.manifest([])])
    (builder.directory / "blobs/sha256/short").write_text("x")
    os.system(f"tar -C {builder.directory} -cf {path} .")
    return path


def _deep_indexes(builder: LayoutBuilder, empty: Path) -> Path:
    descriptor = builder.manifest([builder.layer("x")])
    for _ in range(20):
        descriptor = builder.index([descriptor])
    return builder.finish([descriptor])


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (_deep_indexes, InvalidArgument, "an index in more than 8 others"),
        (_nothing, InvalidArgument, "not an image archive"),
        (_noise, InvalidArgument, "invalid tar header"),
        (_no_image, InvalidArgument, "not an image archive"),
        (_no_index, NotFound, "index.json"),
        (_empty_index, InvalidArgument, "no image"),
        (_truncated, InvalidArgument, "blob blobs/sha256/[0-9a-f]{64}: unexpected end of archive"),
        (_truncated_gzip, InvalidArgument, "gzip: unexpected end of data"),
        (_changed_layer, FailedPrecondition, "blob blobs/sha256/[0-9a-f]{64}: unexpected commit digest"),
        (_changed_manifest, FailedPrecondition, "blob blobs/sha256/[0-9a-f]{64}: unexpected commit digest"),
        (_missing_layer, NotFound, "layer sha256:[0-9a-f]{64} of manifest sha256:"),
        (_missing_config, NotFound, "config sha256:"),
        (_missing_manifest, NotFound, "manifest sha256:"),
        (_wrong_size, FailedPrecondition, "layer sha256:[0-9a-f]{64}: [0-9]+ bytes, [0-9]+ are expected"),
        (_wrong_diff_id, FailedPrecondition, "layer sha256:[0-9a-f]{64}: the image's config names sha256:0000"),
        (_fewer_diff_ids, InvalidArgument, "0 diff_ids for the manifest's 1 layers"),
        (_other_platform, NotFound, "it is for linux/s390x"),
        (_schema_1, InvalidArgument, "schema 1"),
        (_both, InvalidArgument, "both an index and a manifest"),
        (_no_json, InvalidArgument, "not JSON"),
        (_layer_is_no_tar, Error, "unpack layer sha256:"),
        (_bad_digest, InvalidArgument, "blob blobs/sha256/short"),
    ],
)
async def test_a_bad_archive_is_one_clear_error_and_leaves_nothing(
    damage: Damage, kind: type[Error], words: str, builder: LayoutBuilder, tmp_path: Path, place: Place
) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    with open(damage(builder, empty), "rb") as file, pytest.raises(kind, match=words):
        await place.images.import_archive(file)
    assert await place.half_made() == []


async def test_indexes_that_repeat_themselves_are_read_once(builder: LayoutBuilder, place: Place) -> None:
    descriptor = builder.manifest([builder.layer("x")])
    for _ in range(6):
        descriptor = builder.index([descriptor] * 100)
    path = builder.finish([descriptor])
    with open(path, "rb") as file:
        (image,) = await place.images.import_archive(file)
    assert len((await place.images.describe(image)).manifests) == 1
    await place.images.export([image.name], io.BytesIO())


async def test_a_directory_that_is_no_layout_is_not_read(tmp_path: Path, place: Place) -> None:
    (tmp_path / "file").write_text("private")
    with pytest.raises(InvalidArgument, match="not an OCI image layout"):
        await place.images.import_archive(str(tmp_path))
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    os.mkfifo(tmp_path / "blobs/sha256" / ("0" * 64))
    with pytest.raises(InvalidArgument, match="no image"):
        await place.images.import_archive(str(tmp_path))
    assert await place.content.list() == []


async def test_an_interrupted_write_is_resumed(place: Place) -> None:
    import hashlib

    data = random.Random(2).randbytes(3 * PIECE + 17)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    await _leave_ingest(place, f"import-{digest}", data[:2_000_000], len(data), digest)
    content = Content(place.channel, place.namespace)
    (status,) = await content.statuses()
    assert status.offset == 2_000_000
    assert await content.write(f"import-{digest}", [data], total=len(data), expected=digest) == digest
    assert b"".join([piece async for piece in content.read(digest)]) == data
    assert await content.statuses() == []


async def test_a_resumed_write_with_other_bytes_fails_once(place: Place) -> None:
    import hashlib

    data = random.Random(3).randbytes(2 * PIECE)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    await _leave_ingest(place, "ref", bytes(1000), len(data), digest)
    content = Content(place.channel, place.namespace)
    with pytest.raises(FailedPrecondition, match="after 1000 bytes that an interrupted write left"):
        await content.write("ref", [data], total=len(data), expected=digest)
    assert await content.write("ref", [data], total=len(data), expected=digest) == digest


async def test_two_write_one_blob_at_once(place: Place) -> None:
    import asyncio
    import hashlib

    data = random.Random(4).randbytes(4 * PIECE)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    content = Content(place.channel, place.namespace)
    writes = (content.write("one ref", [data], total=len(data), expected=digest) for _ in range(5))
    assert await asyncio.gather(*writes) == [digest] * 5
    assert await content.statuses() == []


async def _leave_ingest(place: Place, ref: str, data: bytes, total: int, expected: str) -> None:
    from wherry.api.services.content.v1 import content_pb2
    from wherry.rpc.channel import Stub
    from wherry.rpc.context import metadata_for

    async def requests() -> AsyncIterator[Any]:
        yield content_pb2.WriteContentRequest(
            action=content_pb2.WRITE, ref=ref, total=total, expected=expected, data=data
        )

    stub = Stub(place.channel, content_pb2.DESCRIPTOR.services_by_name["Content"])
    async for _ in stub.write(requests(), metadata=metadata_for(place.namespace)):
        pass

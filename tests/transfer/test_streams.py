"""Import, export, tag and echo through streams, as ctr 2.3 does them."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

from tests.harness import archives
from tests.harness.daemon import Containerd, Wherryd
from tests.transfer.go_client import GoClient, host_platform
from wherry.api.types.transfer import transfer_pb2 as types
from wherry.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented


def _prefix(name: str = "import-2026-01-01") -> types.ImageReference:
    return types.ImageReference(name=name, is_prefix=True, allow_overwrite=True)


async def _import(client: GoClient, path: Path, *, compress: bool = False, **store: object) -> None:
    with open(path, "rb") as file:
        name, sending = await client.sending("import", file.read)
        destination = types.ImageStore(
            platforms=[host_platform()],
            extra_references=[_prefix()],
            unpacks=[types.UnpackConfiguration(platform=host_platform(), snapshotter="overlayfs")],
            **store,  # type: ignore[arg-type]
        )
        try:
            await client.transfer(types.ImageImportStream(stream=name, force_compress=compress), destination)
        finally:
            sending.cancel()


@pytest.mark.parametrize("form", ["busybox_archive", "busybox_docker_archive"])
async def test_an_archive_is_imported_and_runs(
    form: str, request: pytest.FixtureRequest, go_client: GoClient, wherryd: Wherryd
) -> None:
    await _import(go_client, request.getfixturevalue(form))
    events = [event.event for event in go_client.events]
    assert events[0] == "Importing" and events[-1] == "Completed import"
    assert "saved" in events and events.count("extracted") == 2
    ctr = ["-n", go_client.namespace]
    names = wherryd.ctr(*ctr, "images", "ls", "-q").check().text.split()
    assert names == [archives.BUSYBOX]
    id = wherryd.names.id()
    ran = wherryd.ctr(*ctr, "run", "--rm", names[0], id, "echo", "it runs").check()
    assert ran.text == "it runs\n"


async def test_layers_are_compressed_where_that_is_asked_for(
    go_client: GoClient, wherryd: Wherryd, containerd: Containerd, busybox_docker_archive: Path
) -> None:
    await _import(go_client, busybox_docker_archive, compress=True)
    theirs = containerd.namespace()
    containerd.ctr("images", "import", "--compress-blobs", busybox_docker_archive, namespace=theirs).check()

    def layers(daemon: Wherryd | Containerd, namespace: str) -> list[str]:
        """The labels of what a layer's blob stands for."""
        listed = daemon.ctr("content", "ls", namespace=namespace).check().text
        return sorted(re.findall(r"containerd.io/uncompressed=sha256:\w+", listed))

    assert len(layers(wherryd, go_client.namespace)) == 2
    assert layers(wherryd, go_client.namespace) == layers(containerd, theirs)
    ran = wherryd.ctr("run", "--rm", archives.BUSYBOX, wherryd.names.id(), "true", namespace=go_client.namespace)
    assert ran.check().text == ""


async def test_what_is_exported_is_imported_elsewhere(
    go_client: GoClient, wherryd: Wherryd, containerd: Containerd, busybox_archive: Path, tmp_path: Path
) -> None:
    await _import(go_client, busybox_archive)
    out = tmp_path / "out.tar"
    with open(out, "wb") as file:
        name, receiving = await go_client.receiving("export", file.write)
        await go_client.transfer(
            types.ImageStore(name=archives.BUSYBOX), types.ImageExportStream(stream=name, platforms=[host_platform()])
        )
        await receiving
    namespace = containerd.namespace()
    containerd.ctr("-n", namespace, "images", "import", out).check()
    assert archives.BUSYBOX in containerd.ctr("-n", namespace, "images", "ls", "-q").check().text


async def test_a_tag_is_another_name(go_client: GoClient, wherryd: Wherryd, busybox_archive: Path) -> None:
    await _import(go_client, busybox_archive)
    other = types.ImageStore(name="example.org/other:1", labels={"a": "b"})
    await go_client.transfer(types.ImageStore(name=archives.BUSYBOX), other)
    names = wherryd.ctr("-n", go_client.namespace, "images", "ls", "-q").check().text.split()
    assert sorted(names) == sorted([archives.BUSYBOX, "example.org/other:1"])


async def test_an_index_can_be_named_too(go_client: GoClient, wherryd: Wherryd, busybox_archive: Path) -> None:
    await _import(go_client, busybox_archive, name="example.org/index:1")
    names = wherryd.ctr("-n", go_client.namespace, "images", "ls", "-q").check().text.split()
    assert sorted(names) == sorted([archives.BUSYBOX, "example.org/index:1"])


async def test_bytes_come_back_as_they_went(go_client: GoClient) -> None:
    data = os.urandom(1_000_001)
    taken = bytearray()
    source, sending = await go_client.sending("in", io.BytesIO(data).read)
    destination, receiving = await go_client.receiving("out", taken.extend)
    await go_client.transfer(types.ImageImportStream(stream=source), types.ImageExportStream(stream=destination))
    await receiving
    await sending
    assert bytes(taken) == data


async def test_what_is_no_archive_is_refused_and_leaves_nothing(
    go_client: GoClient, wherryd: Wherryd, tmp_path: Path
) -> None:
    path = tmp_path / "no-archive"
    path.write_bytes(os.urandom(300_000))
    with pytest.raises(InvalidArgument, match="not an image archive"):
        await _import(go_client, path)
    assert wherryd.ctr("-n", go_client.namespace, "images", "ls", "-q").check().text == ""


async def test_a_stream_that_breaks_off_is_an_error(go_client: GoClient, busybox_archive: Path) -> None:
    half = io.BytesIO(busybox_archive.read_bytes()[:400_000])
    name, sending = await go_client.sending("import", half.read)
    with pytest.raises(InvalidArgument, match="unexpected end of archive"):
        await go_client.transfer(types.ImageImportStream(stream=name), types.ImageStore(extra_references=[_prefix()]))
    await sending


async def test_streams_have_names_of_their_own(go_client: GoClient) -> None:
    stream = await go_client.open("one")
    stream.name, name = stream.name, stream.name
    other = go_client._streaming.stream(stream.requests(), metadata=go_client.metadata)
    with pytest.raises(AlreadyExists, match=name):
        await anext(other)
    with pytest.raises(NotFound, match="no-such-stream"):
        await go_client.transfer(types.ImageImportStream(stream="no-such-stream"), types.ImageStore(name="x"))
    stream.half_close()
    await stream.responses.aclose()


async def test_pairs_that_make_no_sense_are_unimplemented(go_client: GoClient) -> None:
    registry = types.OCIRegistry(reference="localhost/a:1")
    with pytest.raises(Unimplemented, match=r"types.transfer.OCIRegistry to containerd.types.transfer.OCIRegistry"):
        await go_client.transfer(registry, registry)

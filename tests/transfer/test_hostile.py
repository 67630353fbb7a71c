"""Registries and archives that mean no good: a clear error, nothing kept, memory bounded.

What the registry client alone makes of such registries is tested in tests/registry.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.harness import archives
from tests.harness.daemon import Wherryd
from tests.registry import hostile
from tests.registry.hostile import Hostile, digest
from tests.transfer.go_client import GoClient, host_platform
from wherry.api.types.transfer import transfer_pb2 as types
from wherry.errors import Error, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted

_IMAGE = archives.busybox()

#: What the daemon's memory may grow by beyond what the same with a good image takes, in KiB.
_GROWTH = 48 << 10


@dataclass
class Place:
    """A registry with an image, which tests make worse."""

    server: Hostile
    client: GoClient
    daemon: Wherryd
    image: archives.Archive

    @property
    def reference(self) -> str:
        return f"{self.server.host}/bad:1"

    def serve(self, image: archives.Archive, manifest: bytes = b"", type: str = hostile.MANIFEST) -> None:
        self.image = image
        self.serve_manifest(manifest or image.manifest, type)
        for name, data in image.blobs.items():
            for method in ("GET", "HEAD"):
                self.server.on(method, f"/v2/bad/blobs/{name}", hostile.blob(data))

    def serve_manifest(self, manifest: bytes, type: str = hostile.MANIFEST) -> None:
        for name in ("1", digest(manifest)):
            for method in ("GET", "HEAD"):
                self.server.on(method, f"/v2/bad/manifests/{name}", hostile.document(manifest, type))

    def on_layer(self, *behaviours: hostile.Behaviour) -> None:
        self.server.on("GET", f"/v2/bad/blobs/{digest(self.image.layers[0].data)}", *behaviours)

    async def pull(self) -> None:
        store = types.ImageStore(
            name=self.reference,
            platforms=[host_platform()],
            unpacks=[types.UnpackConfiguration(platform=host_platform(), snapshotter="overlayfs")],
        )
        await self.client.transfer(types.OCIRegistry(reference=self.reference), store)

    async def refused(self, kind: type[Error], words: str) -> None:
        """Pull, which must fail so, in bounded memory, and leave neither image nor snapshot nor ingest."""
        before = self._peak()
        with pytest.raises(kind, match=words):
            await self.pull()
        assert self._peak() - before < _GROWTH
        assert self._listed("images", "ls") == self._listed("snapshots", "ls") == []
        # What came of a blob went with the client's lease.
        for _ in range(100):
            if not (left := self._listed("content", "active") + self._listed("content", "ls")):
                return
            await asyncio.sleep(0.2)
        raise AssertionError(left)

    def _listed(self, *words: str) -> list[str]:
        return self.daemon.ctr(*words, namespace=self.client.namespace).check().text.splitlines()[1:]

    def _peak(self) -> int:
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")
        return int(status.partition("VmHWM:")[2].split()[0])


@pytest.fixture
async def place(wherryd: Wherryd, go_client: GoClient) -> AsyncIterator[Place]:
    async with Hostile() as server:
        place = Place(server, go_client, wherryd, _IMAGE)
        place.serve(_IMAGE)
        yield place


async def test_a_good_image_is_pulled(place: Place) -> None:
    await place.pull()
    listed = place.daemon.ctr("images", "ls", "-q", namespace=place.client.namespace).check().text
    assert listed.split() == [place.reference]


async def test_a_layer_that_is_cut_is_taken_up_again(place: Place) -> None:
    data = place.image.layers[0].data
    place.on_layer(*(hostile.cut(data, 100_000) for _ in range(3)), hostile.blob(data))
    await place.pull()
    ranges = [each.headers["range"] for each in place.server.asked if "range" in each.headers]
    assert ranges == ["bytes=100000-", "bytes=200000-", "bytes=300000-"]


async def test_too_many_requests_are_waited_for(place: Place) -> None:
    data = place.image.layers[0].data
    place.on_layer(hostile.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "1"}), hostile.blob(data))
    await place.pull()


def _flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


_LAYERS: dict[str, tuple[Callable[[bytes], hostile.Behaviour], type[Error], str]] = {
    "other bytes": (lambda data: hostile.blob(_flipped(data)), FailedPrecondition, "unexpected commit digest"),
    "too short": (lambda data: hostile.blob(data[:-1]), Error, "bytes"),
    "too long": (lambda data: hostile.blob(data + b"x"), FailedPrecondition, "bytes"),
    "endless": (lambda data: hostile.endless(), Error, ""),
    "HTML": (lambda data: hostile.answer(200, b"<html>hello</html>", type="text/html"), Error, "bytes"),
    "not there": (lambda data: hostile.error(404, "BLOB_UNKNOWN", "gone"), NotFound, "gone|not found"),
    "redirected in circles": (lambda data: hostile.redirect("?again=1"), Error, "redirect"),
}


@pytest.mark.parametrize("what", _LAYERS)
async def test_a_bad_layer(place: Place, what: str) -> None:
    make, kind, words = _LAYERS[what]
    place.on_layer(make(place.image.layers[0].data))
    await place.refused(kind, words)


async def test_a_layer_that_is_no_archive(place: Place) -> None:
    data = gzip.compress(b"no archive" * 100)
    place.serve(archives.Archive([archives.Layer(data, digest(b"no archive" * 100))], place.image.config))
    layers = [archives.Layer(data, digest(b"no archive" * 100))]
    place.serve(archives.Archive(layers, archives.config(layers, {})))
    await place.refused(InvalidArgument, "unpack layer .*invalid tar header")


async def test_a_config_that_names_other_layers(place: Place) -> None:
    layers = [replace(layer, diff_id=digest(b"another")) for layer in place.image.layers]
    place.serve(archives.Archive(place.image.layers, archives.config(layers, {})))
    await place.refused(FailedPrecondition, "the image's config names")


async def test_a_config_for_fewer_layers(place: Place) -> None:
    place.serve(archives.Archive(place.image.layers, archives.config(place.image.layers[:1], {})))
    await place.refused(InvalidArgument, "1 diff_ids for the manifest's 2 layers")


async def test_a_manifest_of_both_kinds(place: Place) -> None:
    """CVE-2021-41190: one document that one reader takes for an image and another for an index."""
    both = {**json.loads(place.image.manifest), "manifests": json.loads(place.image.index)["manifests"]}
    place.serve(place.image, json.dumps(both).encode())
    await place.refused(InvalidArgument, "both an index and a manifest")


async def test_schema_1(place: Place) -> None:
    old = json.dumps({"schemaVersion": 1, "name": "bad", "fsLayers": []}).encode()
    place.serve(place.image, old, "application/vnd.docker.distribution.manifest.v1+prettyjws")
    await place.refused(InvalidArgument, "schema 1")


async def test_a_manifest_that_claims_4_gib(place: Place) -> None:
    headers = {"Docker-Content-Digest": digest(b"x"), "Content-Length": str(4 << 30)}
    for method in ("GET", "HEAD"):
        place.server.on(method, "/v2/bad/manifests/1", hostile.answer(200, b"", headers, type=hostile.MANIFEST))
        place.server.on(
            method, f"/v2/bad/manifests/{digest(b'x')}", hostile.endless({"Content-Type": hostile.MANIFEST})
        )
    await place.refused(ResourceExhausted, "4294967296 bytes")


async def test_layers_by_the_thousand(place: Place) -> None:
    """As many as fit into a manifest that is taken; none of them is there."""
    layers = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{number:064x}", "size": 1}
        for number in range(40_000)
    ]
    config = archives.config([archives.Layer(b"", f"sha256:{number:064x}") for number in range(40_000)], {})
    manifest = {**json.loads(place.image.manifest), "layers": layers}
    manifest["config"] = {**manifest["config"], "digest": digest(config), "size": len(config)}
    place.serve(place.image, json.dumps(manifest).encode())
    for method in ("GET", "HEAD"):
        place.server.on(method, f"/v2/bad/blobs/{digest(config)}", hostile.blob(config))
    before = place._peak()
    with pytest.raises(NotFound):
        await place.pull()
    assert place._peak() - before < 8 * _GROWTH
    # The first that is missing is the end of it.
    assert len(place.server.asked) < 200


async def test_encrypted_layers_are_named(place: Place) -> None:
    manifest = json.loads(place.image.manifest)
    manifest["layers"][0]["mediaType"] += "+encrypted"
    place.serve(place.image, json.dumps(manifest).encode())
    await place.refused(Error, r"encrypted")


def _archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name.replace("__", "-").replace("_dot_", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("name", ["index_dot_json", "oci__layout", "manifest_dot_json"])
async def test_documents_of_an_archive_are_bounded(place: Place, name: str) -> None:
    """CVE-2023-25153: containerd read any such member into memory."""
    archive = gzip.compress(_archive(**{name: b" " * (200 << 20)}), compresslevel=1)
    stream, sending = await place.client.sending("import", io.BytesIO(archive).read)
    prefix = types.ImageReference(name="x", is_prefix=True, allow_overwrite=True)
    before = place._peak()
    with pytest.raises(InvalidArgument, match="209715200 bytes, and more than 8388608 are not read"):
        await place.client.transfer(types.ImageImportStream(stream=stream), types.ImageStore(extra_references=[prefix]))
    sending.cancel()
    assert place._peak() - before < _GROWTH

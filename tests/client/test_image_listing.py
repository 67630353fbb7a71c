"""What a listing says of images is what `Images.describe` says, whether it reads files or asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.places import Place
from wherry.client.client import Client
from wherry.client.image_listing import Summary, _Store, summaries
from wherry.errors import Error
from wherry.oci import digest
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import DOCKER_INDEX, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

if TYPE_CHECKING:
    from wherry.client.images import Image

MISSING = digest.of(b"missing")


async def _write(place: Place, value: Any) -> dict[str, Any]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    labels = {"containerd.io/gc.root": "1"}
    await place.content.write(digest.of(data), [data], expected=digest.of(data), labels=labels)
    return {"digest": digest.of(data), "size": len(data)}


async def _make(place: Place) -> None:
    """Make images of every kind, right and wrong."""

    async def image(name: str, media_type: str, value: Any) -> dict[str, Any]:
        made = {"mediaType": media_type, **await _write(place, value)}
        await place.images.put(name, Descriptor(media_type, made["digest"], made["size"]))
        return made

    def manifest(config: dict[str, Any], **more: Any) -> dict[str, Any]:
        layers = [{"mediaType": OCI_LAYER, "digest": digest.of(bytes([n])), "size": 100 + n} for n in (1, 2, 1)]
        return {"schemaVersion": 2, "config": {"mediaType": OCI_CONFIG, **config}, "layers": layers, **more}

    arm = await _write(place, {"os": "linux", "architecture": "arm64", "variant": "v8", "n": 1})
    amd = await _write(place, {"os": "linux", "architecture": "amd64", "n": 2})
    nothing = await _write(place, {})
    plain = await image("plain", OCI_MANIFEST, manifest(amd))
    other = await image("arm", OCI_MANIFEST, manifest(arm, mediaType=OCI_MANIFEST))
    await image("no platform", OCI_MANIFEST, manifest(nothing))
    await image("no config", OCI_MANIFEST, manifest({"digest": MISSING, "size": 3}))
    await image("no list", OCI_MANIFEST, {"config": arm})
    await image("odd size", OCI_MANIFEST, manifest({**amd, "size": True}))
    await image("no object", OCI_MANIFEST, b"[]")
    await image("no JSON", OCI_MANIFEST, b"{")
    await image("schema 1", OCI_MANIFEST, {**manifest(amd), "schemaVersion": 1})
    await image("both", OCI_INDEX, {**manifest(amd), "manifests": []})
    gone = {
        "mediaType": OCI_MANIFEST,
        "digest": MISSING,
        "size": 3,
        "platform": {"os": "linux", "architecture": "s390x"},
    }
    named = {**other, "platform": {"os": "linux", "architecture": "arm"}}
    inner = await image("index", OCI_INDEX, {"schemaVersion": 2, "manifests": [plain, gone, named, plain]})
    await image("docker", DOCKER_INDEX, {"manifests": [other], "mediaType": DOCKER_INDEX})
    await image("nested", OCI_INDEX, {"manifests": [inner, other]})
    await image("mistyped", OCI_INDEX, {"manifests": [other], "mediaType": DOCKER_INDEX})
    await place.images.put("absent", Descriptor(OCI_MANIFEST, MISSING, 3))
    await place.images.put("wrong size", Descriptor(OCI_MANIFEST, plain["digest"], plain["size"] + 1))


async def _described(place: Place, image: Image) -> tuple[int, list[str]] | None:
    try:
        found = await place.images.describe(image)
    except Error:
        return None
    return found.size, found.platforms


def _comparable(summary: Summary | None) -> tuple[int, list[str]] | None:
    return None if summary is None else (summary.size, summary.platforms)


@pytest.mark.parametrize("files", [True, False])
async def test_a_listing_says_what_describe_says(place: Place, files: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(place.channel, place.namespace)
    await _make(place)
    if not files:
        monkeypatch.setattr("os.access", lambda *_arguments: False)
    assert (await _Store.find(client) is not None) == files
    images = await place.images.list()
    expected = {image.name: await _described(place, image) for image in images}
    found = await summaries(client, images)
    assert dict(zip([image.name for image in images], map(_comparable, found), strict=True)) == expected
    assert expected["index"] is not None and expected["index"][1] == ["linux/amd64", "linux/arm/v7"]


async def test_only_what_is_unusual_is_asked_for(
    place: Place, busybox_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(busybox_archive, "rb") as file:
        await place.images.import_archive(file)

    async def describe(*_arguments: object) -> None:
        raise AssertionError("the daemon is asked")

    images = await place.images.list()
    monkeypatch.setattr("wherry.client.images.Images.describe", describe)
    (summary,) = await summaries(Client(place.channel, place.namespace), images)
    assert summary is not None and summary.platforms and summary.size > 1000

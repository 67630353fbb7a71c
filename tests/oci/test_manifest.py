from __future__ import annotations

import json
from typing import Any

import pytest

from wherry.errors import InvalidArgument
from wherry.oci.descriptor import Descriptor
from wherry.oci.manifest import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Index,
    Manifest,
    chain_ids,
    diff_ids,
    parse,
    reference_labels,
)

ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")


def of(media_type: str, value: Any) -> Manifest | Index:
    document = json.dumps(value).encode()
    return parse(Descriptor(media_type, ONE, len(document)), document)


def described(media_type: str, digest: str = TWO) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": 1}


IMAGE = {"schemaVersion": 2, "config": described(OCI_CONFIG), "layers": [described(OCI_LAYER, THREE)]}


def test_a_manifest_and_its_labels() -> None:
    manifest = of(OCI_MANIFEST, IMAGE)
    assert isinstance(manifest, Manifest)
    assert (manifest.config.digest, [layer.digest for layer in manifest.layers]) == (TWO, [THREE])
    assert reference_labels(manifest) == {
        "containerd.io/gc.ref.content.config": TWO,
        "containerd.io/gc.ref.content.l.0": THREE,
    }


def test_an_index_and_its_labels() -> None:
    index = of(OCI_INDEX, {"manifests": [described(OCI_MANIFEST), described(OCI_INDEX, THREE)]})
    assert isinstance(index, Index)
    assert reference_labels(index) == {
        "containerd.io/gc.ref.content.m.0": TWO,
        "containerd.io/gc.ref.content.m.1": THREE,
    }


def test_the_kind_is_told_without_media_types() -> None:
    assert isinstance(of("", IMAGE), Manifest)
    assert isinstance(of("", {"manifests": []}), Index)
    assert isinstance(of("", {**IMAGE, "mediaType": OCI_MANIFEST}), Manifest)


@pytest.mark.parametrize(
    ("media_type", "value", "words"),
    [
        (OCI_MANIFEST, [], "not a JSON object"),
        (OCI_MANIFEST, {}, "neither an image index nor an image manifest"),
        (OCI_INDEX, IMAGE, "neither an image index nor an image manifest"),
        (OCI_MANIFEST, {"manifests": []}, "neither an image index nor an image manifest"),
        (OCI_MANIFEST, {**IMAGE, "mediaType": OCI_INDEX}, "its mediaType is"),
        (OCI_MANIFEST, {**IMAGE, "manifests": []}, "both an index and a manifest"),
        (OCI_INDEX, {"manifests": [], "layers": []}, "both an index and a manifest"),
        (OCI_INDEX, {"manifests": {}}, "not a list"),
        (OCI_INDEX, {"manifests": [1]}, "not an object"),
        (OCI_INDEX, {"manifests": [{"digest": "x", "size": 1}]}, "invalid checksum digest format"),
        (OCI_INDEX, {"manifests": [{"digest": ONE, "size": -1}]}, "no number of bytes"),
        (OCI_INDEX, {"manifests": [{"digest": ONE, "size": True}]}, "no number of bytes"),
        (OCI_INDEX, {"manifests": [{"digest": ONE, "size": 1, "annotations": {"a": 1}}]}, "no strings"),
        (OCI_INDEX, {"manifests": [{"digest": ONE, "size": 1, "platform": []}]}, "platform"),
        (OCI_MANIFEST, {"schemaVersion": 1, "fsLayers": []}, "schema 1"),
    ],
)
def test_what_is_refused(media_type: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        of(media_type, value)


def test_json_that_is_none() -> None:
    for document in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(InvalidArgument, match="not JSON"):
            parse(Descriptor(OCI_MANIFEST, ONE, 1), document)


def test_diff_ids() -> None:
    manifest = of(OCI_MANIFEST, IMAGE)
    assert isinstance(manifest, Manifest)
    assert diff_ids(json.dumps({"rootfs": {"diff_ids": [ONE]}}).encode(), manifest) == [ONE]
    for config, words in (
        ({}, "not an image's config"),
        ({"rootfs": {"diff_ids": [1]}}, "not an image's config"),
        ({"rootfs": {"diff_ids": [ONE, TWO]}}, "2 diff_ids for the manifest's 1 layers"),
        ({"rootfs": {"diff_ids": ["x"]}}, "invalid checksum"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            diff_ids(json.dumps(config).encode(), manifest)


def test_chain_ids() -> None:
    # The specification's recursion, worked out by sha256sum.
    assert list(chain_ids([])) == []
    assert list(chain_ids([ONE])) == [ONE]
    first, second = chain_ids([ONE, TWO])
    assert first == ONE
    import hashlib

    assert second == "sha256:" + hashlib.sha256(f"{ONE} {TWO}".encode()).hexdigest()


def test_a_descriptor_keeps_gos_order() -> None:
    descriptor = Descriptor(OCI_MANIFEST, ONE, 1, {"b": "2", "a": "1"}, {"os": "linux"})
    assert json.dumps(descriptor.to_json()).startswith('{"mediaType": ')
    assert list(descriptor.to_json()) == ["mediaType", "digest", "size", "annotations", "platform"]
    assert list(descriptor.to_json()["annotations"]) == ["a", "b"]

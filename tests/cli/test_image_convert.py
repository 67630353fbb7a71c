"""wherry image convert."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.cli.commands import Wherry
from tests.harness import archives
from tests.harness.archives import BUSYBOX
from tests.harness.command import run

IMAGE = archives.busybox()
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def manifest(wherry: Wherry, name: str) -> dict[str, Any]:
    (image,) = wherry.json("image", "inspect", name)
    (found,) = image["manifests"]
    document: dict[str, Any] = json.loads(wherry("content", "get", found["descriptor"]["digest"]))
    return document


@pytest.mark.parametrize(
    ("flag", "suffix", "decompress"),
    [
        ("--zstd", "+zstd", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
        ("--gzip", "+gzip", gzip.decompress),
        ("--uncompress", "", bytes),
    ],
)
def test_compressions(busybox: Wherry, flag: str, suffix: str, decompress: Any) -> None:
    assert busybox("image", "convert", flag, "-q", "busybox", "converted") == "converted\n"
    made = manifest(busybox, "converted")
    assert made["config"]["digest"] == archives.digest(IMAGE.config)
    assert [layer["mediaType"] for layer in made["layers"]] == [f"{OCI}layer.v1.tar{suffix}"] * 2
    for layer, original in zip(made["layers"], IMAGE.layers, strict=True):
        data = busybox.run("content", "get", layer["digest"]).check().output
        assert (archives.digest(data), len(data)) == (layer["digest"], layer["size"])
        assert archives.digest(decompress(data)) == original.diff_id
    if flag == "--gzip":
        assert made == json.loads(IMAGE.manifest)  # nothing to do
    # It is unpacked already, and complete without the image that it was made of.
    snapshots = busybox("snapshot", "ls", "-q")
    busybox("image", "rm", BUSYBOX)
    assert busybox("snapshot", "ls", "-q") == snapshots
    assert busybox("run", "--rm", "converted", "cat", "/etc/motd") == "second layer\n"
    listed = busybox.daemon.ctr("images", "check", namespace=busybox.namespace).check().text
    assert " complete " in listed
    assert busybox.daemon.ctr("leases", "ls", "-q", namespace=busybox.namespace).check().text == ""


def test_families_and_back(busybox: Wherry, tmp_path: Path) -> None:
    busybox("image", "convert", "--docker", "busybox", "docker")
    made = manifest(busybox, "docker")
    assert made["mediaType"] == f"{DOCKER}distribution.manifest.v2+json"
    assert made["config"]["mediaType"] == f"{DOCKER}container.image.v1+json"
    assert {layer["mediaType"] for layer in made["layers"]} == {f"{DOCKER}image.rootfs.diff.tar.gzip"}
    busybox("image", "convert", "--oci", "docker", "back")
    assert manifest(busybox, "back") == json.loads(IMAGE.manifest)
    busybox("image", "convert", "--oci", "--zstd", "docker", "registry.test/zstd:1")
    busybox("image", "export", "-o", tmp_path / "zstd.tar", "registry.test/zstd:1")
    copied = run(["skopeo", "copy", f"oci-archive:{tmp_path}/zstd.tar", f"dir:{tmp_path}/dir"])
    assert copied.code == 0, copied


def test_what_cannot_be_converted(busybox: Wherry) -> None:
    assert "say to what" in busybox.fails("image", "convert", "busybox", "x")
    assert busybox.fails("image", "convert", "--oci", "absent", "x") == 'image "absent": not found'
    assert "linux/s390x" in busybox.fails("image", "convert", "--oci", "--platform", "linux/s390x", "busybox", "x")
    layer = archives.digest(IMAGE.layers[0].data)
    busybox("content", "rm", layer)
    assert f"layer {layer}: not found" in busybox.fails("image", "convert", "--zstd", "busybox", "x")
    assert busybox("image", "ls", "-q") == f"{BUSYBOX}\n"

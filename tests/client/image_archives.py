"""Archives of images as the real tools make them, and layouts that none would make."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from tests.harness.command import run as run_command
from wherry.oci.platform import Platform

#: What archives may be compressed with.
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


def run(*command: str | Path) -> str:
    """Run a program and return what it prints; its complaints are the test's failure."""
    return run_command(command).check().text


@dataclass
class Archives:
    """One image of busybox in two layers, in every form that is imported. `paths` is by form."""

    directory: Path
    rootfs: Path
    layout: Path
    paths: dict[str, Path] = field(default_factory=dict)


def _make_rootfs(rootfs: Path) -> None:
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "run"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    for applet in ("sh", "echo", "cat", "true", "ls", "id", "sleep"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\n")


def make_archives(directory: Path) -> Archives:
    """Make one image in every form, with umoci, skopeo and podman."""
    rootfs, layout = directory / "rootfs", directory / "layout"
    made = Archives(directory, rootfs, layout)
    _make_rootfs(rootfs)
    umoci = ("umoci", "--log=error")
    run(*umoci, "init", "--layout", layout)
    run(*umoci, "new", "--image", f"{layout}:busybox")
    run(*umoci, "insert", "--image", f"{layout}:busybox", rootfs, "/")
    (directory / "extra").write_text("a second layer\n")
    run(*umoci, "insert", "--image", f"{layout}:busybox", directory / "extra", "/etc/extra")
    run(*umoci, "config", "--image", f"{layout}:busybox", "--config.cmd", "sh", "--config.env", "PATH=/bin")
    run(*umoci, "gc", "--layout", layout)
    paths = made.paths
    paths["umoci layout"] = layout
    paths["tar of a layout"] = directory / "layout.tar"
    run("tar", "-C", layout, "-cf", paths["tar of a layout"], ".")
    paths["skopeo oci-archive"] = directory / "oci.tar"
    source = f"oci:{layout}:busybox"
    run("skopeo", "copy", "-q", source, f"oci-archive:{paths['skopeo oci-archive']}:docker.io/library/busybox:1.0")
    paths["skopeo oci-archive, a tag only"] = directory / "tag.tar"
    run("skopeo", "copy", "-q", source, f"oci-archive:{paths['skopeo oci-archive, a tag only']}:v1")
    paths["skopeo docker-archive"] = directory / "docker.tar"
    run("skopeo", "copy", "-q", source, f"docker-archive:{paths['skopeo docker-archive']}:busybox:1.0")
    for name, compress in COMPRESSIONS.items():
        paths[f"docker-archive in {name}"] = directory / f"docker.tar.{name}"
        paths[f"docker-archive in {name}"].write_bytes(compress(paths["skopeo docker-archive"].read_bytes()))
    _save_with_podman(directory, paths)
    _imitate_docker_25(paths["skopeo oci-archive"], directory, paths)
    return made


@contextmanager
def podman() -> Iterator[tuple[str, ...]]:
    """Give the beginning of a podman command with a store of its own, whose path podman wants short."""
    with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as place:
        storage = ("--root", f"{place}/root", "--runroot", f"{place}/run", "--tmpdir", f"{place}/tmp")
        yield (
            *("podman", *storage, "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"),
            *("--events-backend", "file"),
        )


def _save_with_podman(directory: Path, paths: dict[str, Path]) -> None:
    with podman() as command:
        run(*command, "load", "-q", "-i", paths["skopeo docker-archive"])
        for form in ("docker-archive", "oci-archive"):
            paths[f"podman {form}"] = directory / f"podman-{form}.tar"
            destination = paths[f"podman {form}"]
            run(*command, "save", "-q", "--format", form, "-o", destination, "docker.io/library/busybox:1.0")


def _imitate_docker_25(oci: Path, directory: Path, paths: dict[str, Path]) -> None:
    """`docker save` of Docker 25 and later: an OCI layout whose index names the image wholly, with a manifest.json
    that has nothing to do with where Docker's older archives had their files."""
    unpacked = directory / "docker25"
    with tarfile.open(oci) as archive:
        archive.extractall(unpacked)
    index = json.loads((unpacked / "index.json").read_text())
    index["manifests"][0]["annotations"] = {
        "io.containerd.image.name": "docker.io/library/busybox:1.0",
        "org.opencontainers.image.ref.name": "1.0",
    }
    (unpacked / "index.json").write_text(json.dumps(index))
    manifest = json.loads((unpacked / "blobs" / index["manifests"][0]["digest"].replace(":", "/")).read_text())
    blobs = ["blobs/" + each["digest"].replace(":", "/") for each in (manifest["config"], *manifest["layers"])]
    docker = [{"Config": blobs[0], "RepoTags": ["busybox:1.0"], "Layers": blobs[1:]}]
    (unpacked / "manifest.json").write_text(json.dumps(docker))
    (unpacked / "repositories").write_text(json.dumps({"busybox": {"1.0": blobs[-1].rpartition("/")[2]}}))
    paths["as docker save 25"] = directory / "docker25.tar"
    run("tar", "-C", unpacked, "-cf", paths["as docker save 25"], "blobs", "index.json", "manifest.json", "oci-layout")


class LayoutBuilder:
    """An OCI layout made by hand: what no tool would make, and platforms that this machine is not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def path(self, descriptor: dict[str, Any]) -> Path:
        path: Path = self.directory / "blobs" / descriptor["digest"].replace(":", "/")
        return path

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def document(self, value: Any, media_type: str) -> dict[str, Any]:
        return self.blob(json.dumps(value).encode(), media_type)

    def layer(self, text: str) -> dict[str, Any]:
        source = self.directory / "file"
        source.write_text(text)
        run("tar", "-C", self.directory, "-cf", self.directory / "layer", "file")
        data = (self.directory / "layer").read_bytes()
        source.unlink()
        (self.directory / "layer").unlink()
        return self.blob(data, "application/vnd.oci.image.layer.v1.tar")

    def manifest(self, layers: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        value = {"architecture": Platform.host().architecture, "os": "linux", "config": {}, "rootfs": rootfs} | config
        descriptor = self.document(value, "application/vnd.oci.image.config.v1+json")
        media_type = "application/vnd.oci.image.manifest.v1+json"
        return self.document(
            {"schemaVersion": 2, "mediaType": media_type, "config": descriptor, "layers": layers}, media_type
        )

    def index(self, manifests: list[dict[str, Any]]) -> dict[str, Any]:
        media_type = "application/vnd.oci.image.index.v1+json"
        return self.document({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}, media_type)

    def finish(self, manifests: list[dict[str, Any]], name: str = "x/y:1") -> Path:
        """Write the layout's index, the first manifest under a name, and return a tar of all."""
        named = [dict(manifest) for manifest in manifests]
        if named:
            named[0]["annotations"] = {"io.containerd.image.name": name}
        (self.directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": named}))
        archive = self.directory.with_suffix(".tar")
        run("tar", "-C", self.directory, "-cf", archive, ".")
        return archive

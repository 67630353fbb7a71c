"""Images for the benchmarks: a Debian tree as one layer and as eight, and trees of any size."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

#: What the tree of issue 5 has: 448 MB in 12,366 entries.
_PACKAGES = "python3,perl,git,gcc"


def debian_tree(place: Path) -> Path:
    """Return a minimal Debian with a few packages as a tar, made by mmdebstrap once and kept."""
    path = place / "debian.tar"
    if not path.exists():
        made = place / "debian.tar.new"
        command = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(made), "--format=tar"]
        subprocess.run(command, check=True)
        made.rename(path)
    return path


def random_tree(place: Path, size: int) -> Path:
    """Return a tar of files of 64 KiB of which half compresses, `size` bytes together."""
    path = place / f"tree-{size}.tar"
    if not path.exists():
        with tarfile.open(path, "w") as tar:
            for number in range(size >> 16):
                data = os.urandom(1 << 15) + bytes(1 << 15)
                member = tarfile.TarInfo(f"data/{number // 1000}/{number}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def image(tree: Path, layers: int, name: str) -> Path:
    """Return an OCI archive of a tree cut into gzip layers of about equal sizes; it is kept beside the tree."""
    path = tree.with_name(f"{tree.stem}-{layers}.oci.tar")
    if not path.exists():
        made = path.with_suffix(".new")
        with tarfile.open(made, "w") as archive:
            _write(archive, [_layer(tree, cut) for cut in _cuts(tree, layers)], name)
        made.rename(path)
    return path


def _cuts(tree: Path, layers: int) -> list[set[str]]:
    """Return the names of each layer's entries, directories on their way included."""
    with tarfile.open(tree) as tar:
        members = tar.getmembers()
    share = sum(512 + member.size for member in members) / layers + 1
    cuts: list[set[str]] = [set() for _ in range(layers)]
    where: dict[str, int] = {}
    done = 0
    for member in members:
        # A hard link is in the layer of its target: containerd cannot link across layers.
        number = where[member.linkname] if member.islnk() else int(done // share)
        done += 512 + member.size
        where[member.name] = number
        cuts[number].add(member.name)
        parent = os.path.dirname(member.name)
        while parent and parent not in cuts[number]:
            cuts[number].add(parent)
            parent = os.path.dirname(parent)
    return cuts


def _layer(tree: Path, names: set[str]) -> tuple[bytes, str]:
    """Return a layer, compressed, and the digest of its tar."""
    plain, packed = hashlib.sha256(), io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as compressed,
        tarfile.open(tree) as source,
        tarfile.open(fileobj=cast("BinaryIO", _Tee(compressed, plain)), mode="w|") as target,
    ):
        for member in _members(source):
            if member.name in names:
                target.addfile(member, source.extractfile(member) if member.isreg() else None)
    return packed.getvalue(), f"sha256:{plain.hexdigest()}"


def _members(source: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in source:
        member.pax_headers = {}
        yield member


class _Tee:
    def __init__(self, file: gzip.GzipFile, hasher: hashlib._Hash) -> None:
        self._file = file
        self._hasher = hasher

    def write(self, data: bytes) -> int:
        self._hasher.update(data)
        return self._file.write(data)


def _write(archive: tarfile.TarFile, layers: list[tuple[bytes, str]], name: str) -> None:
    def blob(media_type: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        _add(archive, f"blobs/sha256/{digest}", data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def document(media_type: str, value: dict[str, object]) -> dict[str, object]:
        return blob(media_type, json.dumps(value).encode())

    kind = "application/vnd.oci.image."
    described = [blob(kind + "layer.v1.tar+gzip", data) for data, _diff in layers]
    rootfs = {"type": "layers", "diff_ids": [diff for _data, diff in layers]}
    config = document(kind + "config.v1+json", {"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs})
    manifest = document(kind + "manifest.v1+json", {"schemaVersion": 2, "config": config, "layers": described})
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"}
    _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
    _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))

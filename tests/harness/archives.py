"""Image archives made from Debian's busybox-static, as OCI and as `docker save` write them.

Made with a few lines of our own, the same bytes every time, so that no other program has a say in what is imported
and digests may be compared.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: The name that the archives give their image.
BUSYBOX = "docker.io/library/busybox:latest"

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Layer:
    """One layer: the gzipped tar, and the digest of the tar (its diff id)."""

    data: bytes
    diff_id: str


def layer(members: list[tuple[tarfile.TarInfo, bytes]]) -> Layer:
    """Make a layer of tar members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    tar = stream.getvalue()
    return Layer(gzip.compress(tar, compresslevel=1, mtime=0), digest(tar))


def member(
    name: str, data: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> tuple[tarfile.TarInfo, bytes]:
    """Make a regular file of a layer."""
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = mode, uid, gid
    return info, data


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    """Make a directory of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info, b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """Make a symbolic link of a layer."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    return info, b""


def busybox_members() -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return a small root file system: busybox under all its names, and some users."""
    binary = shutil.which("busybox")
    assert binary is not None, "Debian's busybox-static is not installed (make test installs it)"
    applets = subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split()
    passwd = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
guest:x:1000:1000:Guest:/home/guest:/bin/sh
"""
    group = b"root:x:0:\ndaemon:x:1:\nguest:x:1000:\nextra:x:2000:guest\n"
    return [
        *(directory(f"{name}/") for name in ("bin", "dev", "etc", "home", "home/guest", "proc", "sys", "var")),
        directory("root/", 0o700),
        directory("tmp/", 0o1777),
        member("bin/busybox", Path(binary).read_bytes(), mode=0o755),
        *(link(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        member("bin/exits", b"#!/bin/sh\necho leaving with $1\nexit $1\n", mode=0o755),
        member("bin/count-runs", b"#!/bin/sh\necho run >> /runs\ncat /runs\n", mode=0o755),
        member("etc/passwd", passwd),
        member("etc/group", group),
        member("etc/not-a-program", b"data\n"),
        member("bin/not-a-binary", b"\x7fNOT", mode=0o755),
    ]


def second_members() -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return a second layer: a file added, one changed, one removed."""
    return [directory("etc/"), member("etc/motd", b"second layer\n"), member("etc/.wh.not-a-program")]


def config(layers: list[Layer], process: Mapping[str, object], *, architecture: str = "amd64") -> bytes:
    """Make an image's config; `process` are entries of its "config" (Cmd, Env, User …)."""
    return _json(
        {
            "created": "2024-01-02T03:04:05Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin", "FROM_IMAGE=1"], "Cmd": ["/bin/sh"], "WorkingDir": "/", **process},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    )


@dataclass
class Archive:
    """An image's parts, changed at will before they are written: the blobs by digest, and the index."""

    layers: list[Layer]
    config: bytes
    name: str = BUSYBOX
    architecture: str = "amd64"

    @property
    def manifest(self) -> bytes:
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": _descriptor(_CONFIG, self.config),
                "layers": [_descriptor(_LAYER, layer.data) for layer in self.layers],
            }
        )

    @property
    def index(self) -> bytes:
        descriptor = {
            **_descriptor(_MANIFEST, self.manifest),
            "annotations": {
                "io.containerd.image.name": self.name,
                "org.opencontainers.image.ref.name": self.name.rsplit(":", 1)[-1],
            },
            "platform": {"architecture": self.architecture, "os": "linux"},
        }
        return _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]})

    @property
    def blobs(self) -> dict[str, bytes]:
        """Return all blobs by digest."""
        return {digest(data): data for data in (*(layer.data for layer in self.layers), self.config, self.manifest)}

    def oci(self, *, without: str = "", replaced: dict[str, bytes] | None = None) -> bytes:
        """Return an OCI archive, `without` one blob and with others `replaced` by other bytes, for bad archives."""
        files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": self.index}
        for name, data in {**self.blobs, **(replaced or {})}.items():
            if name != without:
                files["blobs/" + name.replace(":", "/")] = data
        return _tar(files)

    def docker(self) -> bytes:
        """Return an archive as `docker save` writes them."""
        entry = {
            "Config": digest(self.config).removeprefix("sha256:") + ".json",
            "RepoTags": [self.name.removeprefix("docker.io/library/")],
            "Layers": [f"{number}/layer.tar" for number in range(len(self.layers))],
        }
        files = {str(entry["Config"]): self.config}
        for number, layer in enumerate(self.layers):
            files[f"{number}/layer.tar"] = gzip.decompress(layer.data)
        files["manifest.json"] = _json([entry])
        return _tar(files)


def busybox(name: str = BUSYBOX, **process: object) -> Archive:
    """Return the busybox image of two layers."""
    layers = [layer(busybox_members()), layer(second_members())]
    return Archive(layers, config(layers, process), name)


def rootfs_tar() -> bytes:
    """Return the root file system alone, as a plain tar."""
    return gzip.decompress(layer(busybox_members()).data)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_id(layers: list[Layer]) -> str:
    """Return the chain id of layers: the name of the snapshot that they are unpacked to (OCI image spec, config)."""
    chain = layers[0].diff_id
    for layer in layers[1:]:
        chain = digest(f"{chain} {layer.diff_id}".encode())
    return chain


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()

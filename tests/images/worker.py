"""The layer worker, run as the daemon runs it, without a daemon."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wherry.images import process
from wherry.linux.mount import Mount


def bind(path: Path, *options: str) -> Mount:
    return Mount("bind", str(path), ["rbind", *(options or ("rw",))])


def overlay(directory: Path, lowers: Sequence[Path], *extra: str) -> Mount:
    for name in ("upper", "work"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    chain = ":".join(map(str, lowers))
    options = ["index=off", f"workdir={directory}/work", f"upperdir={directory}/upper", f"lowerdir={chain}", *extra]
    return Mount("overlay", "overlay", options)


def alone(directory: Path) -> Mount:
    """An upper directory without those below, as containerd 2.2 names it when it unpacks layers side by side."""
    (directory / "fs").mkdir(parents=True, exist_ok=True)
    return Mount("overlay", "overlay", ["rw", f"upperdir={directory}/fs"])


async def settle(directory: Path, lowers: Sequence[Path]) -> None:
    """Do what is pending for the upper directory of `alone`."""
    record = directory / "pending.json"
    await process.settler(process.spawn_subprocess)(str(directory / "fs"), list(map(str, lowers)), str(record))
    assert not record.exists()


async def apply(
    layer: bytes, mounts: Sequence[Mount], directory: Path, *, compressed: bool = True, sync: bool = False
) -> dict[str, Any]:
    mount_point = directory / "mount-point"
    mount_point.mkdir(exist_ok=True)
    path = directory / f"layer-{uuid.uuid4().hex}"
    path.write_bytes(layer)
    fd = os.open(path, os.O_RDONLY)
    try:
        arguments = {
            "action": "apply",
            "mounts": [described(each) for each in mounts],
            "mount_point": str(mount_point),
            "compressed": compressed,
            "sync": sync,
        }
        return await process.run(process.spawn_subprocess, arguments, [fd])
    finally:
        os.close(fd)
        assert list(mount_point.iterdir()) == []
        assert str(mount_point) not in Path("/proc/self/mountinfo").read_text()


async def diff(
    left: Sequence[Mount],
    right: Sequence[Mount],
    directory: Path,
    *,
    compression: str = "gzip",
    latest: int | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """Return the layer's bytes and the worker's answer."""
    mount_points = [directory / "left-mount", directory / "right-mount"]
    for mount_point in mount_points:
        mount_point.mkdir(exist_ok=True)
    path = directory / f"made-{uuid.uuid4().hex}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        arguments = {
            "action": "diff",
            "left": [described(each) for each in left],
            "right": [described(each) for each in right],
            "mount_points": [str(mount_point) for mount_point in mount_points],
            "compression": compression,
            "latest": latest,
        }
        answer = await process.run(process.spawn_subprocess, arguments, [fd])
    finally:
        os.close(fd)
        for mount_point in mount_points:
            assert list(mount_point.iterdir()) == []
            assert str(mount_point) not in Path("/proc/self/mountinfo").read_text()
    return path.read_bytes(), answer


def described(mount: Mount) -> dict[str, Any]:
    return {"type": mount.type, "source": mount.source, "options": mount.options, "target": mount.target}

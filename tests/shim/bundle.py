"""Bundles for driving a shim without a daemon: a spec, and a root file system of Debian's busybox-static."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

from tests.harness import archives

_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_NET_RAW"]


def make_rootfs(directory: Path) -> Path:
    """Unpack the busybox root file system into a directory."""
    directory.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archives.rootfs_tar())) as archive:
        archive.extractall(directory)
    return directory


def process(*arguments: str, terminal: bool = False, **changes: Any) -> dict[str, Any]:
    """Return an OCI process document that runs a command as root."""
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(arguments),
        "env": ["PATH=/bin", "TERM=dumb"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        "noNewPrivileges": True,
        **changes,
    }


def spec(
    namespace: str,
    id: str,
    arguments: tuple[str, ...],
    *,
    terminal: bool = False,
    own_pids: bool = True,
    root: str = "rootfs",
    memory: int = 0,
    annotations: dict[str, str] | None = None,
    user: tuple[int, int] = (0, 0),
    apparmor: str = "",
    cgroup: str = "",
) -> dict[str, Any]:
    """Return a spec: namespaces and mounts as containerd's clients make them."""
    namespaces = ["mount", "ipc", "uts", "network", *(["pid"] if own_pids else [])]
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if memory:
        resources["memory"] = {"limit": memory, "swap": memory}
    proc = {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}
    if not own_pids:
        proc = {"destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind", "nosuid"]}
    return {
        "ociVersion": "1.0.2",
        "process": process(
            *arguments,
            terminal=terminal,
            user={"uid": user[0], "gid": user[1]},
            **({"apparmorProfile": apparmor} if apparmor else {}),
        ),
        "root": {"path": root},
        "hostname": "test",
        "mounts": [
            proc,
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
        ],
        "linux": {
            "cgroupsPath": f"/{namespace}/{cgroup or id}",
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": resources,
        },
        "annotations": annotations or {},
    }


def make(directory: Path, document: dict[str, Any] | bytes) -> Path:
    """Make a bundle as a daemon does: config.json and an empty rootfs."""
    directory.mkdir(mode=0o700)
    (directory / "rootfs").mkdir(mode=0o711)
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    (directory / "config.json").write_bytes(data)
    return directory

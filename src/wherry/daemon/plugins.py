"""The parts of this daemon, by containerd's names for them: what clients look up before they use it."""

from __future__ import annotations

import os

from wherry.daemon.config import Config
from wherry.daemon.services.introspection import Plugin
from wherry.daemon.services.sandbox_controller import SHIM
from wherry.store.snapshots import Snapshotters

_SERVICES = (
    "containers",
    "content",
    "diff",
    "events",
    "healthcheck",
    "images",
    "introspection",
    "leases",
    "mounts",
    "namespaces",
    "sandbox-controllers",
    "sandboxes",
    "snapshots",
    "streaming",
    "tasks",
    "transfer",
    "version",
)


def plugins(config: Config, snapshotters: Snapshotters) -> list[Plugin]:
    """Return the plugins of a daemon with these snapshotters."""

    def below(name: str) -> dict[str, str]:
        return {"root": os.path.join(config.root, name)}

    found = [Plugin("io.containerd.content.v1", "content", exports=below("io.containerd.content.v1.content"))]
    found += [
        Plugin(
            "io.containerd.snapshotter.v1",
            name,
            exports=below(f"io.containerd.snapshotter.v1.{name}"),
            capabilities=snapshotter.capabilities,
            on_platform=True,
        )
        for name, snapshotter in snapshotters.items()
    ]
    found += [
        Plugin(
            "io.containerd.snapshotter.v1",
            name,
            exports=below(f"io.containerd.snapshotter.v1.{name}"),
            on_platform=True,
            error=error,
        )
        for name, error in snapshotters.failures.items()
    ]
    found += [
        Plugin("io.containerd.metadata.v1", "bolt", ["io.containerd.content.v1", "io.containerd.snapshotter.v1"]),
        Plugin("io.containerd.gc.v1", "scheduler", ["io.containerd.metadata.v1"]),
        Plugin("io.containerd.differ.v1", "walking", ["io.containerd.metadata.v1"], on_platform=True),
        Plugin("io.containerd.event.v1", "exchange"),
        Plugin("io.containerd.streaming.v1", "manager", ["io.containerd.metadata.v1"]),
        Plugin(
            "io.containerd.transfer.v1",
            "local",
            ["io.containerd.lease.v1", "io.containerd.metadata.v1"],
            on_platform=True,
        ),
        Plugin("io.containerd.runtime.v1", "linux", ["io.containerd.metadata.v1"], on_platform=True),
        Plugin("io.containerd.runtime.v2", "task", ["io.containerd.metadata.v1"], on_platform=True),
    ]
    found += [
        Plugin("io.containerd.mount-handler.v1", "erofs", on_platform=True),
        Plugin("io.containerd.mount-handler.v1", "loop", on_platform=True),
        Plugin(
            "io.containerd.mount-manager.v1", "bolt", ["io.containerd.metadata.v1", "io.containerd.mount-handler.v1"]
        ),
        Plugin("io.containerd.shim.v1", "manager", ["io.containerd.event.v1", "io.containerd.metadata.v1"]),
        Plugin("io.containerd.sandbox.store.v1", "local", ["io.containerd.metadata.v1"]),
        Plugin("io.containerd.sandbox.controller.v1", SHIM, ["io.containerd.shim.v1", "io.containerd.event.v1"]),
    ]
    found += [Plugin("io.containerd.grpc.v1", name) for name in _SERVICES]
    found.append(Plugin("io.containerd.ttrpc.v1", "events"))
    return found

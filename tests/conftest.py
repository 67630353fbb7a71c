"""Fixtures for every room: the real peers, each in a place of its own, ended with the session that started it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Containerd:
    """Debian's containerd, running: its socket, its directories, and a namespace that nobody else uses."""

    address: str
    root: Path
    state: Path
    pid: int

    def namespace(self) -> str:
        return "t" + uuid.uuid4().hex[:12]


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """Debian's containerd with root, state, socket and plugins of its own; skips where it is not installed."""
    binary = shutil.which("containerd")
    if binary is None or os.geteuid() != 0:
        pytest.skip("needs root and Debian's containerd")
    with tempfile.TemporaryDirectory(prefix="ctrd-") as name:
        directory = Path(name)
        config = directory / "config.toml"
        config.write_text(
            f'''version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
                    "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{directory}/c.sock"
[ttrpc]
  address = "{directory}/c.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
'''
        )
        with open(directory / "log", "wb") as log:
            process = subprocess.Popen([binary, "--config", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        address = f"{directory}/c.sock"
        try:
            _wait_until_it_answers(process, address, directory / "log")
            yield Containerd(address, directory / "root", directory / "state", process.pid)
        finally:
            process.terminate()
            process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        asked = subprocess.run(["ctr", "--address", address, "version"], check=False, capture_output=True)
        if asked.returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("containerd does not answer: " + log.read_text())
        time.sleep(0.05)

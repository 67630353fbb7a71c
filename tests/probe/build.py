"""Building the probe, the one program that tests and benchmarks run inside containers."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("probe.c")


def build(directory: Path) -> Path:
    """Compile the probe without shared libraries into a directory. subprocess.CalledProcessError if that fails."""
    program = directory / "probe"
    subprocess.run(["cc", "-O2", "-Wall", "-static", "-o", program, _SOURCE], check=True)
    return program

"""What a command that is started for one container does not import: each of these takes it as long as a system call
takes ten thousand times."""

from __future__ import annotations

import subprocess
import sys

import pytest

_HEAVY = (
    "argparse ast asyncio contextlib ctypes dataclasses enum inspect json logging re shutil signal socket subprocess"
)

_RUN = "wherry.runc.command.main wherry.runc.command.run wherry.runc.create wherry.runc.command.foreground"


@pytest.mark.parametrize(
    "modules",
    [
        f"{_RUN} wherry.runc.cgroups.v1",
        f"{_RUN} wherry.runc.cgroups.v2",
        "wherry.runc.command.main wherry.runc.command.exec wherry.runc.exec",
        *(f"wherry.runc.command.{name} wherry.runc.container" for name in ("state", "list", "start", "kill", "delete")),
        "wherry.cli.main wherry.cli.run wherry.client.images wherry.client.leases wherry.client.snapshots"
        " wherry.client.attached wherry.client.connection",
    ],
)
def test_heavy_modules_are_left_out(modules: str) -> None:
    code = f"import sys, {modules.replace(' ', ', ')}; print(*sorted(set({_HEAVY!r}.split()) & sys.modules.keys()))"
    # Without site, whose .pth files import what they like.
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []

"""Workers that end otherwise than with an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import Internal, Unknown
from wherry.images import process


class Child:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)


async def test_a_worker_that_says_nothing() -> None:
    started: list[subprocess.Popen[bytes]] = []

    async def spawn(_arguments: dict[str, Any], _fds: Sequence[int]) -> Child:
        started.append(subprocess.Popen(["true"]))
        return Child(started[0].pid)

    with pytest.raises(Internal, match="ended without an answer"):
        await process.run(spawn, {})
    assert started[0].wait() in (0, -signal.SIGKILL)


async def test_a_cancelled_worker_is_killed_and_gone() -> None:
    started: list[subprocess.Popen[bytes]] = []

    async def spawn(_arguments: dict[str, Any], fds: Sequence[int]) -> Child:
        await asyncio.sleep(0.01)
        started.append(subprocess.Popen(["sleep", "1000"], pass_fds=fds))
        return Child(started[-1].pid)

    before = len(os.listdir("/proc/self/fd"))
    for delay in (0.0, 0.05):  # while it is started, and while it works
        task = asyncio.create_task(process.run(spawn, {}))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert started[-1].wait() == -signal.SIGKILL
    assert len(os.listdir("/proc/self/fd")) == before


async def test_errors_keep_their_kind_and_words(tmp_path: Path) -> None:
    arguments = {"action": "copy", "source": str(tmp_path / "absent"), "target": str(tmp_path)}
    with pytest.raises(Unknown, match="no such file or directory"):
        await process.run(process.spawn_subprocess, arguments)
    with pytest.raises(Unknown, match="KeyError"):
        await process.run(process.spawn_subprocess, {"action": "unheard of"})

"""The tasks of a shim: they belong to one group, and none that fails ends the others, or the shim."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from wherry.completion import run_to_completion

log = logging.getLogger(__name__)

T = TypeVar("T")


class Tasks:
    """Starts tasks in a group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work that nobody waits for; what it raises is logged."""
        return self._group.create_task(_logged(work))

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work to its end though the caller goes away: it must not stop half-way through what it changes."""
        return await run_to_completion(self._group, work)


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        # The shim is the parent of other people's processes: it goes on.
        log.exception("a task of the shim failed")

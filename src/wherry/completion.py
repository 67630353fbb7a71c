"""Work that runs to its end whoever stops waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def run_to_completion(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, T]) -> T:
    """Run work as a task of the group and return its result, or raise what it raises, in the caller alone.

    A caller that is cancelled (its client went away, its deadline passed) leaves the work going on: it must not stop
    half-way through what it changes.
    """
    return (await asyncio.shield(tasks.create_task(_outcome(work)))).result()


async def _outcome(work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    # A failure that escaped a task of the group would end all the others.
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(await work)
    except Exception as error:
        future.set_exception(error)
        future.exception()  # retrieved: the caller may be gone
    return future

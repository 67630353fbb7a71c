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
    outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    tasks.create_task(_finish(work, outcome))
    return await outcome


async def _finish(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T]) -> None:
    try:
        result = await work
    except Exception as error:
        # A failure that escaped a task of the group would end all the others.
        if not outcome.done():
            outcome.set_exception(error)
    except BaseException:
        outcome.cancel()
        raise
    else:
        if not outcome.done():  # else the caller has gone
            outcome.set_result(result)

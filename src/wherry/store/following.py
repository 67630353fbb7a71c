"""Reading an ingest while it is being written, by others in the same process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from wherry.errors import Error, Unavailable


class Progress:
    """How far a writer is: for those who follow it. There is no end but a commit, or a reason why there is none."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.committed = False
        self.failure: Error | None = None
        self._changed = asyncio.Event()

    def advance(self, offset: int) -> None:
        """Tell that the bytes up to here will not change any more."""
        if offset < self.offset:
            self.fail(Unavailable("the ingest was started again"))
        self.offset = offset
        self._notify()

    def commit(self) -> None:
        """Tell that the bytes are a blob now."""
        if self.failure is None:
            self.committed = True
        self._notify()

    def fail(self, failure: Error) -> None:
        """Tell why there will be no blob; the first reason counts."""
        if not self.committed and self.failure is None:
            self.failure = failure
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()


class Following:
    """An ingest that somebody follows: iterated over, how far it is, until it has become a blob. Close it at the end.

    What the iteration raises is why it has not: what the commit raised, or Unavailable if there was none.
    """

    def __init__(self, fd: int, progress: Progress) -> None:
        """Take over the descriptor of the file."""
        self._fd = fd
        self._progress = progress

    def fileno(self) -> int:
        """A descriptor to read the file by, up to the last offset that was told."""
        return self._fd

    async def __aiter__(self) -> AsyncIterator[int]:
        progress = self._progress
        told = 0
        while True:
            if progress.failure is not None:
                raise progress.failure
            if progress.offset > told:
                told = progress.offset
                yield told
            elif progress.committed:
                return
            else:
                await progress.changed()

    def close(self) -> None:
        os.close(self._fd)

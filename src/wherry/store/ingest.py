"""One ingest being written: its file, where it ends, and the digest of what is in it so far."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from wherry.errors import ResourceExhausted
from wherry.oci import digest as digests
from wherry.store.blobs import BlobFiles, copy_data

T = TypeVar("T")

#: Bytes that are written and hashed right away, in well under a millisecond; more go to a thread.
_INLINE = 65536
_PIECE = 1 << 20


class IngestData:
    """The bytes of an ingest, written at their end only. Methods are called one after the other, never side by side.

    It may begin as a stand-in for a blob that is there already (`shared`): it counts as having that blob's bytes, and
    gets a copy of them only when it is written to.
    """

    def __init__(self, files: BlobFiles, ingest: int, *, shared: str = "", size: int = 0) -> None:
        self._files = files
        self._ingest = ingest
        self._fd = -1
        self._hasher = digests.hasher()
        self._adopted = ""
        self.shared = shared
        self.offset = size if shared else 0

    @property
    def digest(self) -> str:
        """The digest of the bytes so far."""
        return self.shared or self._adopted or "sha256:" + self._hasher.hexdigest()

    async def open(self, *, new: bool, resume: bool) -> None:
        """Open the file; take up what is in it, or empty it if that does not count. Raises OSError."""
        if self.shared:
            return
        if new:
            self._fd = self._files.open_ingest(self._ingest)
        else:
            await in_thread(lambda: self._reopen(resume))

    def _reopen(self, resume: bool) -> None:
        self._fd = self._files.open_ingest(self._ingest)
        if resume:
            self._rehash()
        else:
            os.ftruncate(self._fd, 0)

    @property
    def modified_at(self) -> int | None:
        """When bytes were added last, in nanoseconds; None for a stand-in."""
        return os.fstat(self._fd).st_mtime_ns if self._fd >= 0 else None

    async def write(self, data: bytes) -> None:
        """Add bytes at the end. Raises OSError, or ResourceExhausted if the disk is full; then nothing was added."""
        if not data:
            return
        if self.shared:
            await self._unshare()
        elif self._adopted:
            await in_thread(self._rehash)
        if len(data) <= _INLINE:
            self._append(data)
        else:
            await in_thread(lambda: self._append(data))

    async def truncate(self) -> None:
        """Start again with no bytes."""
        if self.shared:
            self._fd = self._files.open_ingest(self._ingest)
            self.shared = ""
        await in_thread(lambda: os.ftruncate(self._fd, 0))
        self._hasher = digests.hasher()
        self._adopted = ""
        self.offset = 0

    def fileno(self) -> int:
        """The file's descriptor, for a process that writes it whole; `adopt` must follow."""
        return self._fd

    def duplicate(self) -> int:
        """Return a descriptor to read the bytes by, which the caller closes. Raises OSError."""
        return self._files.open(self.shared) if self.shared else os.dup(self._fd)

    def adopt(self, digest: str) -> None:
        """Take the word of whoever wrote the file for the digest of what is in it."""
        self._adopted = digest
        self.offset = os.fstat(self._fd).st_size

    async def publish(self) -> None:
        """Make the bytes a blob, lasting. Raises OSError."""
        if not self.shared:
            digest = self.digest
            await in_thread(lambda: self._files.publish(self._ingest, self._fd, digest))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            at = self.offset
            while rest:
                written = os.pwrite(self._fd, rest, at)
                rest = rest[written:]
                at += written
        except OSError as error:
            os.ftruncate(self._fd, self.offset)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceExhausted(f"content store: {os.strerror(error.errno).lower()}") from None
            raise
        self._hasher.update(data)
        self.offset = at

    def _rehash(self) -> None:
        self._hasher = digests.hasher()
        self._adopted = ""
        at = 0
        while piece := os.pread(self._fd, _PIECE, at):
            self._hasher.update(piece)
            at += len(piece)
        self.offset = at

    async def _unshare(self) -> None:
        def copy() -> None:
            fd = self._files.open_ingest(self._ingest)
            try:
                blob = self._files.open(self.shared)
                try:
                    os.ftruncate(fd, 0)
                    copy_data(blob, fd)
                finally:
                    os.close(blob)
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd
            self._rehash()

        await in_thread(copy)
        self.shared = ""


async def in_thread(function: Callable[[], T]) -> T:
    """Run a function in a thread, and do not return before it has, even if cancelled: it holds files and locks."""
    return await to_the_end(asyncio.get_running_loop().run_in_executor(None, function))


async def to_the_end(work: Awaitable[T]) -> T:
    """Wait for work that must not be left half-way; a cancellation meanwhile is raised when it is done."""
    future = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # looked at, so that nobody complains that it was not
        raise cancelled
    return future.result()

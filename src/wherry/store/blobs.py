"""The files of the content store: blobs/sha256/<hex>, ingest/<id>/data, and removed/ for what is on its way out.

No namespaces in here, and no rows: whose a blob is, and whether an ingest still exists, the database knows. What it
does not know is removed when the daemon starts.
"""

from __future__ import annotations

import os

from wherry.errors import NotFound
from wherry.linux import tree

_ALGORITHM = "sha256"


class BlobFiles:
    """The directory tree of a content store. Every method blocks; those that may take long say so."""

    def __init__(self, root: str) -> None:
        """Make the directories that are missing."""
        self.root = root
        self._blobs = os.path.join(root, "blobs", _ALGORITHM)
        self._ingests = os.path.join(root, "ingest")
        self._removed = os.path.join(root, "removed")
        for directory in (self._blobs, self._ingests, self._removed):
            os.makedirs(directory, mode=0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Return where a blob of this digest is, if there is one."""
        return os.path.join(self._blobs, digest.partition(":")[2])

    def open(self, digest: str) -> int:
        """Open a blob for reading. Raises NotFound."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"content {digest}") from None

    def open_ingest(self, ingest: int) -> int:
        """Open an ingest's data for reading and writing, made if there is none. May take as long as a copy."""
        directory = os.path.join(self._ingests, str(ingest))
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, "data")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.fstat(fd).st_nlink == 1:
            return fd
        # A commit failed after the blob had been linked to this file: what is written now must not change the blob.
        try:
            os.unlink(path)
            copy = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            copy_data(fd, copy)
            return copy
        finally:
            os.close(fd)

    def stat_ingest(self, ingest: int) -> os.stat_result | None:
        """Return what is known of an ingest's data; None if nothing was written yet."""
        try:
            return os.stat(os.path.join(self._ingests, str(ingest), "data"))
        except FileNotFoundError:
            return None

    def publish(self, ingest: int, fd: int, digest: str) -> None:
        """Make an ingest's data the blob of its digest, on disk for good. Blocks for the disk.

        The ingest keeps its name of the same file, so that a crash before the database knows the blob costs nothing.
        """
        os.fsync(fd)
        os.fchmod(fd, 0o444)
        self.link(ingest, digest)
        directory = os.open(self._blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def link(self, ingest: int, digest: str) -> None:
        """Give an ingest's data the name of a blob, unless there is one. Raises NotFound if the ingest is gone."""
        try:
            os.link(os.path.join(self._ingests, str(ingest), "data"), self.path(digest))
        except FileExistsError:
            pass
        except FileNotFoundError:
            raise NotFound(f"ingest of content {digest}") from None

    def exists(self, digest: str) -> bool:
        """Tell whether there is a blob of this digest."""
        return os.path.exists(self.path(digest))

    def retire(self, digest: str) -> None:
        """Take a blob out of use; `empty_removed` gives its space back. No error if it is not there."""
        try:
            os.rename(self.path(digest), os.path.join(self._removed, os.urandom(8).hex()))
        except FileNotFoundError:
            pass

    def remove_ingest(self, ingest: int) -> None:
        """Remove an ingest's directory. Blocks for the disk if there is much in it."""
        tree.remove(os.path.join(self._ingests, str(ingest)))

    def empty_removed(self) -> None:
        """Give back the space of retired blobs. Blocks for the disk."""
        for name in os.listdir(self._removed):
            tree.remove(os.path.join(self._removed, name))

    def digests(self) -> list[str]:
        """Return the digests of all blobs. Takes time with their number."""
        return [f"{_ALGORITHM}:{name}" for name in os.listdir(self._blobs)]

    def ingests(self) -> list[int]:
        """Return the ids of all ingests that have a directory."""
        return [int(name) for name in os.listdir(self._ingests) if name.isdecimal()]


def copy_data(source: int, target: int, size: int | None = None) -> None:
    """Copy a file's bytes from its start to another's, without passing them through Python. Blocks for the disk."""
    left = os.fstat(source).st_size if size is None else size
    at = 0
    while left > 0:
        copied = os.copy_file_range(source, target, left, at, at)
        if copied == 0:
            raise OSError(f"file became shorter while it was copied, by {left} bytes")
        at += copied
        left -= copied

"""The directories of a back end: <root>/snapshots/<id>, `new-…` while one is made, `removed-…` while one goes.

A directory is renamed to its id in the very transaction that makes the snapshot's row, so one without a row is garbage,
whenever the daemon died.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Sequence

from wherry.linux import tree
from wherry.linux.libc import check, libc
from wherry.store.database import Database
from wherry.store.ingest import in_thread

_NEW = "new-"
_REMOVED = "removed-"


class Directories:
    """The directories below one back end's root."""

    def __init__(self, root: str) -> None:
        """Make the root if it is missing."""
        self.root = root
        self._snapshots = os.path.join(root, "snapshots")
        os.makedirs(self._snapshots, mode=0o700, exist_ok=True)
        self._being_made: set[str] = set()

    def path(self, id: int, *parts: str) -> str:
        """Return the path of a snapshot's directory, or of something in it."""
        return os.path.join(self._snapshots, str(id), *parts)

    def make(self) -> str:
        """Make a directory for a snapshot that has no id yet; `place` or `remove_new` follows."""
        path = self.reserve()
        os.mkdir(path, 0o700)
        return path

    def reserve(self) -> str:
        """Return a path where something can be made that is no snapshot's yet, and goes unless it becomes one's."""
        name = _NEW + os.urandom(8).hex()
        self._being_made.add(name)
        return os.path.join(self._snapshots, name)

    def forget(self, reserved: str) -> None:
        """Say that a reserved path is used no more: whatever is there is garbage."""
        self._being_made.discard(os.path.basename(reserved))

    def place(self, made: str, id: int) -> None:
        """Give a directory its id. Within a write."""
        path = self.path(id)
        try:
            os.rename(made, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Of a transaction that failed after this; its id was given out again.
            self._retire(str(id))
            os.rename(made, path)
        self.forget(made)

    async def sync(self) -> None:
        """Have the disk hold all that was written here. syncfs(2). Raises OSError."""
        await in_thread(self._sync)

    def _sync(self) -> None:
        fd = os.open(self._snapshots, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            check(libc.syncfs(fd), self._snapshots)
        finally:
            os.close(fd)

    async def remove_new(self, made: str) -> None:
        """Remove a directory that did not become a snapshot's."""
        self.forget(made)
        await in_thread(lambda: self._delete(made))

    def retire(self, ids: Sequence[int]) -> list[str]:
        """Take snapshots' directories out of use and return what `remove` is to delete."""
        return [retired for number in ids if (retired := self._retire(str(number))) is not None]

    def retire_part(self, id: int, name: str) -> str | None:
        """Take what is of a name in a snapshot's directory out of use; returns what `remove` is to delete, if any."""
        return self._retire(os.path.join(str(id), name))

    def _retire(self, name: str) -> str | None:
        retired = os.path.join(self._snapshots, _REMOVED + os.urandom(8).hex())
        try:
            os.rename(os.path.join(self._snapshots, name), retired)
        except FileNotFoundError:
            return None
        return retired

    def remove(self, retired: Sequence[str]) -> None:
        """Delete retired directories. Blocks for the disk. Raises OSError."""
        for path in retired:
            self._delete(path)

    def _delete(self, path: str) -> None:
        tree.remove(path)

    async def retire_unknown(self, database: Database, snapshotter: str) -> list[str]:
        """Take every directory out of use that no row stands for, and return what `remove` is to delete."""
        names = await in_thread(lambda: os.listdir(self._snapshots))

        # In the writer's order: a directory that was placed before is seen with its row, or its row will never be.
        def retire(connection: sqlite3.Connection) -> list[str]:
            retired = []
            for name in names:
                if name.isdecimal():
                    query = "SELECT 1 FROM snapshots WHERE id = ? AND snapshotter = ?"
                    if connection.execute(query, (int(name), snapshotter)).fetchone():
                        continue
                elif not name.startswith((_NEW, _REMOVED)) or name in self._being_made:
                    continue
                if (path := self._retire(name)) is not None:
                    retired.append(path)
            return retired

        return await database.write(retire)

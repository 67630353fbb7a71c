"""What a snapshotter asks of a back end, which keeps the files of snapshots; what most need not do is done here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

from wherry.linux.mount import Mount
from wherry.linux.tree import Usage
from wherry.store.snapshots.directories import Directories

#: A capability, by containerd 2.2's name: an active snapshot without a parent is given one when it is committed.
REBASE = "rebase"

#: A file in an active snapshot's directory: what its layer needs of the layers below, written by whoever applied it
#: without them.
PENDING = "pending.json"

#: Gives an upper directory what its record (a file's path) says that it needs of its lower directories, top first, and
#: removes the record. Interrupted, it may be called again.
Settle = Callable[[str, Sequence[str], str], Awaitable[None]]


class UnsupportedError(Exception):
    """A back end cannot work on this system; the text says what it lacks."""


class Backend(ABC):
    """The files of snapshots. A snapshot's id names its directory; parents are ids, the nearest first."""

    #: What it can do beyond what all can, for clients to look up.
    capabilities: Sequence[str] = ()

    @property
    @abstractmethod
    def directories(self) -> Directories:
        """The snapshots' directories."""

    @abstractmethod
    async def make(self, parents: Sequence[int], *, active: bool) -> str | None:
        """Make the directory of a new snapshot on these parents; None where it needs none. Raises OSError."""

    @abstractmethod
    async def mounts(self, id: int, parents: Sequence[int], *, active: bool, volatile: bool) -> list[Mount]:
        """Return the mounts that show a snapshot, usable by whoever is on this host. Raises OSError."""

    @abstractmethod
    async def usage(self, id: int, parents: Sequence[int]) -> Usage:
        """Measure what an active snapshot takes up beyond its parents. Raises OSError."""

    async def commit(self, id: int, parents: Sequence[int], *, rebased: bool) -> Usage:
        """Make an active snapshot's files those of a committed one, and measure them; its record follows.

        What is done here is done again if the daemon dies before the record is written. With `rebased` the snapshot
        was made without these parents. Raises OSError, and kinds of wherry.errors.
        """
        return await self.usage(id, parents)

    async def committed(self, id: int) -> None:  # noqa: B027 — most have nothing to take away
        """Take away what only an active snapshot needs: the record of a committed one is written. Raises OSError."""

    async def release(self, in_use: Callable[[], set[int]]) -> None:  # noqa: B027 — most hold nothing
        """Let go of what was held for mounts of snapshots that are gone. Raises OSError.

        `in_use` gives the parents, all the way down, of the snapshots that can be mounted now.
        """

    async def recover(self, committed: Sequence[int]) -> None:  # noqa: B027 — most leave nothing
        """Finish what a daemon before this one had begun with committed snapshots. Raises OSError."""

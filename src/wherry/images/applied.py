"""What a layer has put in place so far: a removal in the same layer is not about that, in whatever order they come."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Protocol

from wherry.images.pending import Pending


class Applied(Protocol):
    """Paths of what a layer has put in place, and of what lies on the way to it."""

    def add(self, directory: bytes, path: bytes) -> None:
        """Note an entry's path, and that of the directory it is in."""

    def add_parent(self, path: bytes) -> None:
        """Note a directory made on the way to an entry: it counts once there is an entry in it."""

    def __contains__(self, path: bytes) -> bool: ...

    def forget(self, directory: bytes, names: Iterable[bytes]) -> None:
        """Forget a directory, and files in it, that are about to be removed."""


class Everything:
    """In a directory that was empty at first, all is of the layer: nothing need be kept in memory but exceptions."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending
        #: Directories on the way to nothing yet but removals.
        self._bare: set[bytes] = set()

    def add(self, directory: bytes, path: bytes) -> None:
        if self._bare:
            self._bare.discard(path)
            while directory in self._bare:
                self._bare.discard(directory)
                directory = os.path.dirname(directory)

    def add_parent(self, path: bytes) -> None:
        self._bare.add(path)

    def __contains__(self, path: bytes) -> bool:
        try:
            return path not in self._bare and not is_whiteout(os.lstat(path))
        except FileNotFoundError:
            return path in self._pending

    def forget(self, directory: bytes, names: Iterable[bytes]) -> None:
        self._bare.discard(directory)


class Listed:
    """In a directory where there was something before, each path has to be remembered."""

    def __init__(self) -> None:
        self._paths: set[bytes] = set()
        self._ancestors: set[bytes] = set()

    def add(self, directory: bytes, path: bytes) -> None:
        self._paths.add(path)
        while directory not in self._ancestors:
            self._ancestors.add(directory)
            directory = os.path.dirname(directory)

    def add_parent(self, path: bytes) -> None:
        return

    def __contains__(self, path: bytes) -> bool:
        return path in self._paths or path in self._ancestors

    def forget(self, directory: bytes, names: Iterable[bytes]) -> None:
        self._ancestors.discard(directory)
        self._paths.discard(directory)
        for name in names:
            self._paths.discard(os.path.join(directory, name))


def applied(pending: Pending) -> Applied:
    """Return what is right for the process's root directory as it is now."""
    with os.scandir("/") as entries:
        return Listed() if pending or any(True for _ in entries) else Everything(pending)


def is_whiteout(seen: os.stat_result) -> bool:
    """Tell whether a file is how overlayfs writes a removal down."""
    return seen.st_rdev == 0 and stat.S_ISCHR(seen.st_mode)

"""What a layer applied to an upper directory leaves open until the layers below it are known.

Layers are unpacked side by side, each into a directory of its own. Two things that an archive says are about the
layers below: a directory which it names only on the way to something else looks as it does there, and a hard link may
lead to a file there. They are written down, and `wherry.images.rebase` does them when the layer has got its place.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from wherry.images.tar import Entry

#: The file with what is pending, beside the upper directory.
NAME = "pending.json"

_VERSION = 1

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NUMBERS = ("mode", "uid", "gid", "mtime", "atime")


@dataclass(slots=True)
class Link:
    """A hard link to a file of a lower layer. Paths are absolute, in the upper directory and in those below."""

    #: What the archive calls it.
    entry_name: bytes
    target: bytes
    #: Where it shall be; None once another entry has taken its place: then only its metadata is left, which is that of
    #: all the file's names.
    path: bytes | None
    entry: Entry


class Pending:
    """What is pending for one upper directory, in the order in which the archive has it."""

    def __init__(self) -> None:
        #: Directories made on the way to an entry, and whether an entry described them later.
        self.directories: dict[bytes, bool] = {}
        self.links: list[Link] = []
        #: Links that still have their place, by it.
        self._placed: dict[bytes, Link] = {}

    def __bool__(self) -> bool:
        return bool(self.directories or self.links)

    def __contains__(self, path: bytes) -> bool:
        """Tell whether there will be a link at a path."""
        return path in self._placed

    def add_link(self, path: bytes, target: bytes, entry: Entry) -> None:
        """Add a link, which may be one to a pending link."""
        self.replace(path)
        to = self._placed.get(target)
        link = Link(entry.name, to.target if to else target, path, entry)
        self.links.append(link)
        self._placed[path] = link

    def replace(self, path: bytes) -> bool:
        """Forget what was to be at a path, for another entry is; tell whether a link was."""
        link = self._placed.pop(path, None)
        if link is not None:
            link.path = None
        return link is not None

    def remove(self, directory: bytes) -> None:
        """Forget what was to be in a directory that has been removed, and that it was one."""
        self.directories.pop(directory, None)
        below = directory + b"/"
        for path in [path for path in self.directories if path.startswith(below)]:
            del self.directories[path]
        for path in [path for path in self._placed if path.startswith(below)]:
            self.replace(path)

    def encode(self, *, user_xattrs: bool, sync: bool) -> bytes:
        """Return it as JSON; `sync`: whether doing it shall wait for the disk, as the layer has."""
        return json.dumps(
            {
                "version": _VERSION,
                "user_xattrs": user_xattrs,
                "sync": sync,
                "directories": {os.fsdecode(path): described for path, described in self.directories.items()},
                "links": [_encode(link) for link in self.links],
            }
        ).encode()

    @classmethod
    def decode(cls, document: dict[str, Any]) -> Pending:
        """Return what `encode` wrote. Raises ValueError or KeyError for what it cannot have written."""
        if document["version"] != _VERSION:
            raise ValueError(f"{NAME} of version {document['version']}")
        pending = cls()
        pending.directories = {os.fsencode(path): described for path, described in document["directories"].items()}
        for each in document["links"]:
            link = _decode(each)
            pending.links.append(link)
            if link.path is not None:
                pending._placed[link.path] = link
        return pending


class Record:
    """The file that says what is pending for an upper directory. Its directory is open: a chroot does not hide it."""

    def __init__(self, path: str) -> None:
        self._directory = os.open(os.path.dirname(path), _DIRECTORY)
        self._name = os.path.basename(path)

    def read(self) -> dict[str, Any] | None:
        """Return what the file says, for `Pending.decode`; None without one."""
        try:
            fd = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            document: dict[str, Any] = json.loads(file.read())
        return document

    def write(self, document: bytes) -> None:
        """Write the file, lasting."""
        new = f"{self._name}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._directory)
        try:
            while document:
                document = document[os.write(fd, document) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)

    def remove(self) -> None:
        """Remove the file."""
        os.unlink(self._name, dir_fd=self._directory)


def _encode(link: Link) -> dict[str, Any]:
    return {
        "name": os.fsdecode(link.entry_name),
        "target": os.fsdecode(link.target),
        "path": None if link.path is None else os.fsdecode(link.path),
        "xattrs": {os.fsdecode(name): value.hex() for name, value in link.entry.xattrs.items()},
        **{name: getattr(link.entry, name) for name in _NUMBERS},
    }


def _decode(encoded: dict[str, Any]) -> Link:
    entry = Entry()
    for name in _NUMBERS:
        setattr(entry, name, encoded[name])
    entry.name = os.fsencode(encoded["name"])
    entry.xattrs = {os.fsencode(name): bytes.fromhex(value) for name, value in encoded["xattrs"].items()}
    path = encoded["path"]
    return Link(entry.name, os.fsencode(encoded["target"]), None if path is None else os.fsencode(path), entry)

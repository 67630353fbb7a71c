"""What is done to a mount before it is made: the words before the slash in its type.

* ``format/``: templates in its source, target and options are filled in.
* ``mkdir/``: directories are made, one for each option ``X-containerd.mkdir.path=DIR[:MODE[:UID:GID]]``.
* ``mkfs/``: its source is made as the image of an empty file system, unless it is there, by the options
  ``X-containerd.mkfs.size=``, ``.fs=`` (ext2, ext3, ext4, xfs) and ``.uuid=``.

Both make things only below the directories that are the daemon's own.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wherry.daemon.mounts import template
from wherry.errors import FailedPrecondition, InvalidArgument, Unimplemented, Unknown
from wherry.linux.mount import Mount
from wherry.linux.openat2 import open_in_root
from wherry.store.mounts import ActiveMount

_MKDIR = "X-containerd.mkdir."
_MKFS = "X-containerd.mkfs."

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = ("", "k", "m", "g", "t", "p")

_EXT = ("ext2", "ext3", "ext4")


class Transformer:
    """Does what types ask for, below some directories."""

    #: The words that it knows.
    WORDS = frozenset({"format", "mkdir", "mkfs"})

    def __init__(self, roots: Sequence[str]) -> None:
        self._roots = [os.path.normpath(root) for root in roots]

    async def apply(self, word: str, mount: Mount, active: Sequence[ActiveMount]) -> Mount:
        """Return a mount without the first word of its type, after what that word asks for is done."""
        made = Mount(mount.type.removeprefix(f"{word}/"), mount.source, mount.options, mount.target)
        if word == "format":
            made.source = template.fill(mount.source, active)
            made.target = template.fill(mount.target, active)
            made.options = [template.fill(option, active) for option in mount.options]
        elif word == "mkdir":
            made.options = await asyncio.to_thread(self._make_directories, mount.options)
        else:
            made.options = await self._make_file_system(made.source, mount.options)
        return made

    @contextmanager
    def _parent(self, path: str, what: str) -> Iterator[tuple[int, str]]:
        """Give the directory that a path is in, opened below one of ours, and the path's last name."""
        path = os.path.normpath(path)
        roots = [root for root in self._roots if path.startswith(root + "/")]
        if not roots:
            raise Unimplemented(f'no root "{path}" configured for {what}')
        root = max(roots, key=len)
        directory, name = os.path.split(os.path.relpath(path, root))
        with ExitStack() as undo:
            top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, top)
            parent = open_in_root(top, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
            undo.callback(os.close, parent)
            yield parent, name

    # -- mkdir ------------------------------------------------------------------------------------------------------

    def _make_directories(self, options: Sequence[str]) -> list[str]:
        """Make what options name; return the other options."""
        rest = []
        wanted = []
        for option in options:
            if option.startswith(_MKDIR):
                wanted.append(_directory(option))
            else:
                rest.append(option)
        for path, mode, owner in wanted:
            self._make_directory(path, mode, owner)
        return rest

    def _make_directory(self, path: str, mode: int, owner: tuple[int, int]) -> None:
        with self._parent(path, "mkdir") as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    raise FailedPrecondition(f'mkdir target "{path}" exists and is not a directory') from None
                if stat.S_IMODE(found.st_mode) != mode:
                    raise FailedPrecondition(
                        f'mkdir target "{path}" exists with mode {stat.S_IMODE(found.st_mode):o}, not {mode:o}'
                    ) from None
                return
            fd = open_in_root(parent, name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchown(fd, *owner)
                os.fchmod(fd, mode)  # whatever the umask is
            finally:
                os.close(fd)

    # -- mkfs -------------------------------------------------------------------------------------------------------

    async def _make_file_system(self, source: str, options: Sequence[str]) -> list[str]:
        """Make the image that options describe, unless it is there; return the other options."""
        rest = [option for option in options if not option.startswith(_MKFS)]
        values = {"fs": "ext4", "size": "", "uuid": ""}
        for option in options:
            if option.startswith(_MKFS):
                key, _, value = option.removeprefix(_MKFS).partition("=")
                if key not in values:
                    raise InvalidArgument(f"unknown mount option {key}")
                values[key] = value
        if not values["size"]:
            raise InvalidArgument("mkfs requires mkfs.size option")
        size = _bytes(values["size"])
        command = _mkfs_command(values["fs"], values["uuid"])
        with self._parent(source, "mkfs") as (parent, name):
            try:
                if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    raise FailedPrecondition(f'mkfs backing file "{source}" exists and is not a regular file')
                return rest
            except FileNotFoundError:
                await _format(parent, name, source, size, command)
        return rest


def _directory(option: str) -> tuple[str, int, tuple[int, int]]:
    """Return an option's path, mode and owner."""
    word, equals, value = option.removeprefix(_MKDIR).partition("=")
    parts = value.split(":")
    if word != "path" or not equals or len(parts) not in (1, 2, 4):
        raise InvalidArgument(f'invalid mkdir option "{option}"')
    mode = 0o700
    owner = os.getuid(), os.getgid()
    if len(parts) > 1:
        if not re.fullmatch(r"[0-7]{1,4}", parts[1]) or int(parts[1], 8) > 0o777:
            raise InvalidArgument(f"invalid mode {parts[1]}")
        mode = int(parts[1], 8)
    if len(parts) == 4:
        for kind, number in zip(("uid", "gid"), parts[2:], strict=True):
            if not re.fullmatch(r"[0-9]{1,10}", number):
                raise InvalidArgument(f'invalid {kind} "{number}"')
        owner = int(parts[2]), int(parts[3])
    return parts[0], mode, owner


def _bytes(text: str) -> int:
    """Return what a size such as "64MiB" is in bytes; units are powers of 1024, as docker's."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"bad option size: invalid size: '{text}'")
    return int(float(match[1]) * 1024 ** _UNITS.index(match[2].lower()))


def _mkfs_command(fs: str, uuid: str) -> list[str]:
    if fs in _EXT:
        return [f"mkfs.{fs}", "-q", *(("-U", uuid) if uuid else ())]
    if fs == "xfs":
        return ["mkfs.xfs", "-q", *(("-m", f"uuid={uuid}") if uuid else ())]
    raise InvalidArgument(f'unsupported filesystem "{fs}"')


async def _format(parent: int, name: str, source: str, size: int, command: list[str]) -> None:
    """Make a file with a file system in it, under its name only when it is whole."""
    new = f".{name}.new"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640, dir_fd=parent)
    with ExitStack() as undo:
        undo.callback(os.unlink, new, dir_fd=parent)
        with open(fd, "wb"):
            os.truncate(fd, size)
            try:
                child = await asyncio.create_subprocess_exec(
                    *command,
                    f"/proc/self/fd/{fd}",
                    pass_fds=(fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            except FileNotFoundError:
                raise FailedPrecondition(f'failed format "{source}": {command[0]} is not installed') from None
            output, _ = await child.communicate()
            if child.returncode:
                text = output.decode(errors="replace").strip()
                raise Unknown(f'failed format "{source}": {command[0]} failed: {text}: exit status {child.returncode}')
        os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
        undo.pop_all()

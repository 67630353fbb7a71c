"""Compiled seccomp filters on disk: compiling takes milliseconds, of which a cold start has few.

A file is named after the digest of the profile and holds what came of it. Nothing is believed that another user could
have written, nor what is not, to the byte, what was written: a wrong filter would be a container without one. A cache
that cannot be used is none; that is no error.
"""

from __future__ import annotations

import os
import stat
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        # Built into the interpreter: importing hashlib loads OpenSSL, which takes longer than all the rest here.
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b

DIGEST_SIZE = 32

#: Of the format, and of what the compiler makes of a profile: where either changes, so does this.
_MAGIC = b"wherry seccomp 1"
#: The digest of all that follows; magic, the profile's digest; flags, whether there is a listener; the time and the
#: size of the library's file; how long its path is. The path and the program follow.
_HEADER = Struct(f"={DIGEST_SIZE}s{len(_MAGIC)}s{DIGEST_SIZE}sIIQQI")
#: As large as a program can be, BPF_MAXINSNS of 8 bytes, and a path.
_MAX_SIZE = _HEADER.size + 4096 * 8 + 4096

#: A machine has a handful of profiles. Of those that have more, the files written first go.
_MOST_FILES = 64


def digest(data: bytes) -> bytes:
    """Return the digest that files here are named after and checked by."""
    return blake2b(data, digest_size=DIGEST_SIZE).digest()


def read(directory: str, profile: bytes) -> tuple[bytes, int, bool] | None:
    """Return the program, the flags and whether there is a listener, of a profile's digest; None if it is not there.

    Neither is what does not belong to this user alone, what is damaged, and what another version of libseccomp made.
    """
    try:
        place = _open_directory(directory)
    except OSError:
        return None
    try:
        data = _read_file(place, profile.hex())
    except OSError:
        return None
    finally:
        os.close(place)
    if len(data) < _HEADER.size or digest(data[DIGEST_SIZE:]) != data[:DIGEST_SIZE]:
        return None
    _, magic, name, flags, notify, time, size, length = _HEADER.unpack_from(data)
    if magic != _MAGIC or name != profile:
        return None
    end = _HEADER.size + length
    if _library(os.fsdecode(data[_HEADER.size : end])) != (time, size):
        return None
    return data[end:], flags, bool(notify)


def write(directory: str, profile: bytes, program: bytes, flags: int, notify: bool, library: str) -> None:
    """Keep what came of a profile. `library` is libseccomp's path. The directory is made if its parent is there."""
    made_by = _library(library)
    if made_by is None:
        return
    path = os.fsencode(library)
    rest = _HEADER.pack(b"", _MAGIC, profile, flags, notify, *made_by, len(path))[DIGEST_SIZE:] + path + program
    try:
        os.mkdir(directory, 0o700)
    except OSError:
        pass  # it is there, or cannot be made: opening it tells
    try:
        place = _open_directory(directory)
    except OSError:
        return
    try:
        _write_file(place, profile.hex(), digest(rest) + rest)
        _remove_oldest(place)
    except OSError:
        pass  # a full disk, a read-only one: the next start compiles again
    finally:
        os.close(place)


def _open_directory(path: str) -> int:
    """Open a directory that nobody else can put anything into. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(1, "is open to others", path)
    return fd


def _read_file(place: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(1, "is not this user's alone", name)
        return os.read(fd, _MAX_SIZE)
    finally:
        os.close(fd)


def _write_file(place: int, name: str, data: bytes) -> None:
    temporary = f".{name}.{os.getpid()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=place)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(28, os.strerror(28), name)
        os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
    except OSError:
        os.unlink(temporary, dir_fd=place)
        raise
    finally:
        os.close(fd)


def _remove_oldest(place: int) -> None:
    names = os.listdir(place)
    if len(names) > _MOST_FILES:
        ages = sorted((os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime_ns, name) for name in names)
        for _, name in ages[: len(names) - _MOST_FILES]:
            os.unlink(name, dir_fd=place)


def _library(path: str) -> tuple[int, int] | None:
    """Return what tells a version of the library from another, None if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size

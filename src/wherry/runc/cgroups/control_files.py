"""A cgroup's control files: read, written, and the words that runc has for what the kernel refuses. cgroups(7)."""

from __future__ import annotations

import errno
import os
import time

from wherry.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Larger than any control file; memory.numa_stat of a large machine has some 10 kB.
_ENOUGH = 1 << 20

#: What is answered for a cgroup that is just being removed.
GONE = (errno.ENOENT, errno.ENODEV)
#: What one gets who may not write to a hierarchy.
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

#: A process in the middle of its birth can't be moved for a moment (EINVAL).
_ATTACH_TRIES = 5
_ATTACH_SECONDS = 0.03

#: Waits between tries to remove a cgroup whose last process is still going, in seconds.
_REMOVE_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)


def refused(error: OSError, prefix: str = "") -> Unknown:
    """Return the error that stands for one of a control file, as runc words it."""
    operation, value = getattr(error, "_wherry_write", ("open", None))
    path = f" {error.filename}" if error.filename is not None else ""
    words = f"{operation}{path}: {(error.strerror or str(error)).lower()}"
    if value is not None:
        words = f'failed to write "{value}": {words}'
    return Unknown(f"{prefix}{words}")


def marked(error: OSError, operation: str, path: str, value: str | None = None) -> OSError:
    """Note in an error what was done to which path, for `refused`."""
    error.filename = path
    error._wherry_write = (operation, value)  # type: ignore[attr-defined]
    return error


def write(directory: str, name: str, value: str) -> None:
    """Write a control file in one write(2). OSError, which `refused` can put in words."""
    path = f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise marked(error, "open", path) from None
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise marked(error, "write", path, value) from None
    finally:
        os.close(fd)


def write_lines(directory: str, name: str, lines: list[str]) -> None:
    """Write a control file that takes one entry at a time. OSError."""
    path = f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        raise marked(error, "open", path) from None
    line = ""
    try:
        for line in lines:
            os.write(fd, line.encode())
    except OSError as error:
        raise marked(error, "write", path, line) from None
    finally:
        os.close(fd)


def read(directory: str, name: str) -> str:
    """Return what a control file says. OSError."""
    path = f"{directory}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise marked(error, "open", path) from None
    try:
        # Files of sequences give a page at a time.
        parts = []
        while data := os.read(fd, _ENOUGH):
            parts.append(data)
        return b"".join(parts).decode()
    except OSError as error:
        raise marked(error, "read", path) from None
    finally:
        os.close(fd)


def text(directory: str, name: str) -> str:
    """Return what a control file says, "" if there is none: a kernel without it, or a cgroup just removed."""
    try:
        return read(directory, name)
    except OSError:
        return ""


def number(directory: str, name: str, maximum: int = (1 << 64) - 1) -> int:
    """Return a control file's number, 0 if there is none, `maximum` for "max"."""
    value = text(directory, name).strip()
    if value == "max":
        return maximum
    return int(value) if value.lstrip("-").isdigit() else 0


def pairs(directory: str, name: str) -> Iterator[tuple[str, int]]:
    """Yield the entries of a file of lines `NAME NUMBER`."""
    for line in text(directory, name).splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            yield key, int(value)


def attach(directory: str, pid: int) -> None:
    """Move a process into a cgroup. OSError."""
    for left in range(_ATTACH_TRIES - 1, -1, -1):
        try:
            write(directory, "cgroup.procs", str(pid))
            return
        except OSError as error:
            if error.errno != errno.EINVAL or not left:
                raise
            time.sleep(_ATTACH_SECONDS)


def make(path: str) -> bool:
    """Make a cgroup, and those above it that are missing. Tell whether it is a new one. OSError."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return False
    except FileNotFoundError:
        make(os.path.dirname(path))
        return make(path)
    except OSError as error:
        raise marked(error, "mkdir", path) from None
    return True


def processes(path: str) -> list[int]:
    """Return the processes of a cgroup and of all below it, none if it is gone."""
    found: list[int] = []
    pending = [path]
    while pending:
        directory = pending.pop()
        try:
            found.extend(map(int, read(directory, "cgroup.procs").split()))
        except OSError as error:
            # A threaded cgroup does not tell its processes (EOPNOTSUPP): those above it do.
            if error.errno not in (*GONE, errno.EOPNOTSUPP):
                raise
        pending.extend(children(directory))
    return found


def children(path: str) -> list[str]:
    """Return the cgroups right below one, none if it is gone."""
    try:
        if os.stat(path).st_nlink == 2:
            return []
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def remove(paths: list[str]) -> None:
    """Remove cgroups with those below them; it is fine if they are gone. Unknown if some have processes still."""
    for seconds in (*_REMOVE_SECONDS, 0.0):
        paths = [path for path in paths if not _removed(path)]
        if not paths:
            return
        if seconds:
            time.sleep(seconds)
    raise Unknown(f"Failed to remove paths: {' '.join(paths)}")


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in GONE:
            return True
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise marked(error, "rmdir", path) from None
    else:
        return True
    below = children(path)
    left = [child for child in below if not _removed(child)]
    if left or not below:
        return False
    try:
        os.rmdir(path)
    except OSError as error:
        return error.errno in GONE
    return True

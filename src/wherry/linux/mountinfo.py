"""Which mount something lies on: proc(5), /proc/[pid]/mountinfo."""

from __future__ import annotations

import errno
import os
import re

_ESCAPED = re.compile(r"\\([0-7]{3})")


def lookup(path: str) -> tuple[str, str]:
    """Return the file system type and the source of the mount that a file or directory lies on.

    Raises OSError (ENOENT: it lies on no mount that this process sees).
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            id = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            if line.split(" ", 1)[0] == id:
                kind, source = line.partition(" - ")[2].split(" ")[:2]
                return kind, _ESCAPED.sub(lambda match: chr(int(match[1], 8)), source)
    raise OSError(errno.ENOENT, "no such mount in /proc/self/mountinfo", path)

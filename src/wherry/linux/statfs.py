"""What kind of file system something lies on. fstatfs(2)."""

from __future__ import annotations

from wherry.linux import foreign
from wherry.linux.libc import check, libc

# <linux/magic.h>
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
DEVPTS_SUPER_MAGIC = 0x1CD1
BTRFS_SUPER_MAGIC = 0x9123683E

#: struct statfs begins with f_type, a long, and has 120 bytes on 64-bit machines.
_SIZE = 256


def filesystem_type(fd: int) -> int:
    """Return the magic number of the file system that a descriptor's file lies on. Raises OSError."""
    buffer = (foreign.c_long * (_SIZE // foreign.sizeof(foreign.c_long)))()
    check(libc.fstatfs(foreign.c_int(fd), foreign.byref(buffer)))
    return int(buffer[0])

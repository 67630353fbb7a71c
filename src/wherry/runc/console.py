"""A container's terminal: made in its own devpts, its master handed to whoever asked for it.

OCI runtime specification, config.md, `process.terminal`; ioctl_tty(2); pts(4).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import stat
import struct
import termios

from wherry.errors import Unknown
from wherry.linux import detached
from wherry.linux.statfs import DEVPTS_SUPER_MAGIC, filesystem_type
from wherry.runc.root_path import make_file, open_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.runc.host_proc import HostProc

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_PTMX = os.makedev(5, 2)
_NULL = os.makedev(1, 3)


def open_console(root: int, size: Mapping[str, int] | None, proc: HostProc) -> tuple[int, int]:
    """Make a terminal in the devpts of a root directory and return its master and its slave.

    Neither is found by name: another process of the container might have put something else there (CVE-2025-52565).
    Unknown if there is no devpts, OSError.
    """
    path = open_path(root, "/dev/pts/ptmx")
    try:
        if filesystem_type(path) != DEVPTS_SUPER_MAGIC or os.fstat(path).st_rdev != _PTMX:
            raise Unknown("/dev/pts/ptmx is not devpts' own: mount a devpts on /dev/pts for a terminal")
        master = proc.reopen(path, os.O_RDWR | os.O_NOCTTY)
    finally:
        os.close(path)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if size and (size.get("height") or size.get("width")):
        resized = struct.pack("HHHH", size.get("height", 0) & 0xFFFF, size.get("width", 0) & 0xFFFF, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, resized)
    return master, slave


def mount_console(root: int, slave: int) -> None:
    """Put a terminal on /dev/console, below a root directory. OSError."""
    tree = detached.open_tree("", dir_fd=slave, recursive=False)
    try:
        target = make_file(root, "/dev/console", 0o620)
        try:
            detached.attach(tree, target)
        finally:
            os.close(target)
    finally:
        os.close(tree)


def take_console(slave: int, *, controlling: bool = True) -> None:
    """Make a terminal this process's standard streams and, where it leads a session, the controlling one. OSError."""
    if controlling:
        control(slave)
    for number in (0, 1, 2):
        os.dup2(slave, number)


def control(slave: int) -> None:
    """Make a terminal the controlling one of the session that this process leads. OSError."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def connect_console(path: str) -> int:
    """Connect to a console socket and return the connection's descriptor. OSError."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise OSError(error.errno, error.strerror, path) from None
    return connection.detach()


def send_master(connection: int, master: int, name: str) -> None:
    """Hand a terminal's master over, SCM_RIGHTS, with its name as the data. OSError."""
    sock = _socket.socket(fileno=os.dup(connection))
    try:
        rights = struct.pack("i", master)
        sock.sendmsg([name.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    finally:
        sock.close()


def give_stdio(uid: int) -> None:
    """Make a user the owner of the standard streams, so that it can open /dev/stdout again; /dev/null stays root's."""
    for number in (0, 1, 2):
        found = os.fstat(number)
        if found.st_uid == uid or (stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL):
            continue
        try:
            os.fchown(number, uid, -1)
        except OSError as error:
            # As runc: not of the user namespace, a read-only file system, or a file that has no owner.
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise

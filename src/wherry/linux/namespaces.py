"""Namespaces: processes made in new ones, and entered by descriptor. namespaces(7), clone3(2), setns(2), unshare(2)."""

from __future__ import annotations

import os
from struct import Struct

from wherry.linux import foreign
from wherry.linux.libc import check, libc
from wherry.linux.signals import SIGCHLD
from wherry.linux.syscalls import CLONE

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

_SYS_CLONE3 = 435  # the same on every architecture

#: struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls (Linux 5.3); set_tid,
#: set_tid_size, cgroup (5.7), which an older kernel takes as long as they are 0.
_CLONE_ARGS = Struct("11Q")

#: Keeps the interpreter's lock: a child that does not return from a call that released it could never take it back.
_python = foreign.PyDLL(None, use_errno=True)


def clone(flags: int, *, cgroup: int = -1) -> tuple[int, int]:
    """Make a child in new namespaces, clone3(2), and return its pid and a pidfd; (0, -1) in the child. OSError.

    With CLONE_PARENT in the flags the child is a sibling. It is born in the cgroup (v2) of which `cgroup` is an open
    directory. Only for processes of one thread: what the C library and
    Python do around fork(2) for others is not done for all of it.
    """
    pidfd = foreign.c_int(-1)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD
    flags |= CLONE_PIDFD
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    arguments = _CLONE_ARGS.pack(flags, foreign.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    _python.PyOS_BeforeFork()
    pid = int(
        _python.syscall(foreign.c_long(_SYS_CLONE3), foreign.c_char_p(arguments), foreign.c_size_t(_CLONE_ARGS.size))
    )
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0, -1
    error = foreign.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid, pidfd.value


def clone_sibling() -> int:
    """Make a child of this process's parent, clone(2), in the pid namespace of this one's children; 0 in the child.

    OSError. As `clone`, but by the call that seccomp filters allow where they let a process fork: they cannot look into
    clone3(2)'s arguments.
    """
    flags_and_stack = CLONE_PARENT, 0
    if os.uname().machine == "s390x":
        flags_and_stack = 0, CLONE_PARENT
    arguments = [foreign.c_ulong(each) for each in (*flags_and_stack, 0, 0, 0)]
    _python.PyOS_BeforeFork()
    pid = int(_python.syscall(foreign.c_long(CLONE), *arguments))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    error = foreign.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, os.strerror(error))
    return pid


def unshare(flags: int) -> None:
    """Leave namespaces for new ones, unshare(2). Raises OSError."""
    check(libc.unshare(foreign.c_int(flags)))


def setns(fd: int, flags: int) -> None:
    """Enter the namespace of a descriptor, or with a pidfd those of a process that the flags name. Raises OSError."""
    check(libc.setns(foreign.c_int(fd), foreign.c_int(flags)))

"""This program's own file, out of reach of whoever may run it again: the interpreter that becomes a container's process
must not be writable from there by /proc/self/exe (CVE-2019-5736).

It runs from a copy in memory that is sealed (memfd_create(2), fcntl(2) F_ADD_SEALS) or from a read-only mount that is
nowhere (open_tree(2), mount_setattr(2)). Nothing is imported here that a program which is started for one container
would wait for.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

_SELF = "/proc/self/exe"

# <linux/fcntl.h>
_F_ADD_SEALS = 1033
_F_GET_SEALS = 1034
_F_SEAL_SEAL = 1
_F_SEAL_SHRINK = 2
_F_SEAL_GROW = 4
_F_SEAL_WRITE = 8

#: Where a loader finds libpython that is looked for beside the program: a sealed copy is beside nothing.
_LIBRARY_PATH = "LD_LIBRARY_PATH"
#: What it was before; told to the program, which puts it back.
_OLD_LIBRARY_PATH = "WHERRY_LD_LIBRARY_PATH"


def is_protected() -> bool:
    """Tell whether no write to this program's file is possible by /proc/self/exe, whoever tries."""
    try:
        if os.statvfs(_SELF).f_flag & os.ST_RDONLY:
            return True
        return bool(_seals(_SELF) & _F_SEAL_WRITE)
    except OSError:
        return False


def _seals(path: str) -> int:
    import fcntl

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return 0  # no file in memory
    finally:
        os.close(fd)


def sealed_copy() -> int:
    """Return a descriptor of a sealed copy of this program in memory, closed on exec. Raises OSError."""
    import fcntl

    source = os.open(_SELF, os.O_RDONLY | os.O_CLOEXEC)
    try:
        copy = os.memfd_create("python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            while os.sendfile(copy, source, None, 1 << 30):
                continue
            fcntl.fcntl(copy, _F_ADD_SEALS, _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_WRITE)
        except BaseException:
            os.close(copy)
            raise
    finally:
        os.close(source)
    return copy


def read_only_mount() -> int:
    """Return a descriptor of this program's file on a read-only mount that is nowhere, closed on exec. OSError.

    Takes CAP_SYS_ADMIN; the file's pages stay shared with all who run it, unlike a copy's.
    """
    from wherry.linux import detached

    fd = detached.open_tree(os.path.realpath(_SELF), recursive=False)
    try:
        detached.set_attributes(fd, set=detached.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(fd)
        raise
    return fd


def protected_file() -> int:
    """Return a descriptor to run this program by, protected in either way. Raises OSError if neither works."""
    try:
        return read_only_mount()
    except OSError:
        return sealed_copy()


def library_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with which a protected copy finds a libpython that lies beside the original."""
    result = dict(environment)
    beside = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))), "lib")
    try:
        shared = any(name.startswith("libpython") for name in os.listdir(beside))
    except OSError:
        shared = False
    if shared:
        old = result.get(_LIBRARY_PATH, "")
        result[_OLD_LIBRARY_PATH] = old
        result[_LIBRARY_PATH] = f"{beside}:{old}" if old else beside
    return result


def restore_environment() -> None:
    """Take back what `library_path` and the interpreter added: they are not for the programs that this one starts."""
    forget_coercion()
    old = os.environ.pop(_OLD_LIBRARY_PATH, None)
    if old:
        os.environ[_LIBRARY_PATH] = old
    elif old is not None:
        os.environ.pop(_LIBRARY_PATH, None)


def forget_coercion() -> None:
    """Take away the LC_CTYPE that the interpreter sets for itself where there is no locale (PEP 538)."""
    if "LC_CTYPE" not in os.environ:
        return
    with open("/proc/self/environ", "rb") as file:
        if not any(entry.startswith(b"LC_CTYPE=") for entry in file.read().split(b"\0")):
            del os.environ["LC_CTYPE"]


def run_again(fd: int, code: str, arguments: Sequence[str]) -> NoReturn:
    """Run code in this interpreter by a protected descriptor of it, in place of this process. Raises OSError.

    It looks for no site packages: it has this process's `sys.path` as it is, and takes less time to start.
    """
    prelude = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    # By the name that it was started with: the interpreter finds its library, or its virtual environment, by it.
    forget_coercion()
    command = [sys.executable, "-I", "-S", "-c", prelude, *arguments]
    os.execve(f"/proc/self/fd/{fd}", command, library_path(os.environ))


def protect(code: str) -> None:
    """Go on in a protected interpreter, which runs code with this process's arguments, unless this is one.

    Returns where no such thing can be had: what must be protected refuses then.
    """
    if is_protected():
        restore_environment()
        return
    try:
        run_again(protected_file(), code, sys.argv[1:])
    except OSError:
        return

"""libseccomp, the library that makes BPF of rules: seccomp_init(3), seccomp_rule_add(3) and their kin, by ctypes."""

from __future__ import annotations

import ctypes
import os

from wherry.errors import FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_FILE = "libseccomp.so.2"

# <seccomp.h>
ACT_KILL_PROCESS = 0x80000000
ACT_KILL_THREAD = 0x00000000
ACT_TRAP = 0x00030000
ACT_ERRNO = 0x00050000
ACT_NOTIFY = 0x7FC00000
ACT_TRACE = 0x7FF00000
ACT_LOG = 0x7FFC0000
ACT_ALLOW = 0x7FFF0000

CMP_NE, CMP_LT, CMP_LE, CMP_EQ, CMP_GE, CMP_GT, CMP_MASKED_EQ = range(1, 8)

_NR_SCMP_ERROR = -1
_FLTATR_CTL_OPTIMIZE = 8
#: Rules are sought in a binary tree of system call numbers, not one after the other.
_OPTIMIZE_TREE = 2

#: struct scmp_version: major, minor, micro.
_Version = ctypes.c_uint * 3
_TREE_SINCE = (2, 5)

#: The negative errno in the library's own words, seccomp_rule_add(3), where strerror's would mislead.
_EEXIST, _EACCES = -17, -13


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Library:
    """The library, loaded. Where it lies and what it is tells `identity`: a new version knows more system calls."""

    def __init__(self) -> None:
        """FailedPrecondition, naming the package, if it is not installed."""
        try:
            library = ctypes.CDLL(_FILE)
        except OSError as error:
            raise FailedPrecondition(
                f"a seccomp profile needs {_FILE}, of the package libseccomp2 (Debian) or libseccomp (Fedora, Arch, "
                f"Alpine): {error}"
            ) from None
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = (ctypes.c_uint32,)
        library.seccomp_release.restype = None
        library.seccomp_release.argtypes = (ctypes.c_void_p,)
        library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        library.seccomp_arch_native.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
        library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
        library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
        library.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Comparison),
        )
        library.seccomp_version.restype = ctypes.POINTER(_Version)
        version = library.seccomp_version().contents
        self.version = (version[0], version[1], version[2])
        self.native_architecture = int(library.seccomp_arch_native())
        self.handle = library

    def architecture(self, name: str) -> int:
        """Return the number of an architecture by libseccomp's name (``x86_64``), 0 for one that it does not know."""
        return int(self.handle.seccomp_arch_resolve_name(name.encode(errors="replace")))

    def system_call(self, name: bytes) -> int | None:
        """Return the native number of a system call, or None if there is none of that name.

        One that only other architectures have has a negative pseudo-number.
        """
        number = int(self.handle.seccomp_syscall_resolve_name(name))
        return None if number == _NR_SCMP_ERROR else number

    def system_call_of(self, architecture: int, name: bytes) -> int | None:
        """Return the number that a system call has on an architecture, or None if it does not have it."""
        number = int(self.handle.seccomp_syscall_resolve_name_arch(architecture, name))
        return None if number < 0 else number

    def path(self) -> str:
        """Return the path of the loaded library, "" if /proc does not tell."""
        with open("/proc/self/maps") as file:
            for line in file:
                if "/libseccomp.so" in line:
                    return line[line.index("/") :].rstrip("\n")
        return ""


class Rules:
    """A filter in the making. A context manager: its memory is the library's."""

    def __init__(self, library: Library, default: int) -> None:
        """`default` is the action for what no rule matches. OSError (EINVAL) for one that is not valid here."""
        self._library = library.handle
        self._context = self._library.seccomp_init(default)
        if not self._context:
            raise OSError(22, os.strerror(22))
        if library.version >= _TREE_SINCE:
            self._check(self._library.seccomp_attr_set(self._context, _FLTATR_CTL_OPTIMIZE, _OPTIMIZE_TREE))

    def __enter__(self) -> Rules:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.seccomp_release(self._context)
        self._context = None

    def add_architecture(self, architecture: int) -> None:
        """Have the filter hold for an architecture, too. OSError (EDOM: of other endianness)."""
        result = self._library.seccomp_arch_add(self._context, architecture)
        if result != _EEXIST:
            self._check(result)

    def add(self, action: int, system_call: int, comparisons: Sequence[tuple[int, int, int, int]] = ()) -> None:
        """Add a rule: an action for a system call whose arguments compare so. OSError.

        A comparison is an argument's index, the operator, and one or two numbers; for CMP_MASKED_EQ they are the mask
        and the value.
        """
        array = (_Comparison * len(comparisons))(*(_Comparison(*each) for each in comparisons))
        self._check(self._library.seccomp_rule_add_array(self._context, action, system_call, len(comparisons), array))

    def program(self) -> bytes:
        """Return the filter as an array of struct sock_filter. OSError."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._library.seccomp_export_bpf(self._context, fd))
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _check(self, result: int) -> None:
        if result < 0:
            raise OSError(-result, os.strerror(-result))

"""Programs that the kernel asks about a cgroup's processes. bpf(2)."""

from __future__ import annotations

import errno
import os
from struct import Struct, pack, unpack_from

from wherry.linux import foreign
from wherry.linux.libc import check, libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# <linux/bpf.h>
_PROG_LOAD = 5
_PROG_ATTACH = 8
_PROG_DETACH = 9
_PROG_GET_FD_BY_ID = 13
_PROG_QUERY = 16
_PROG_TYPE_CGROUP_DEVICE = 15
_CGROUP_DEVICE = 6
_F_ALLOW_MULTI = 2
_F_REPLACE = 4

#: The system call's number; asm-generic's for the architectures that are not named.
_NUMBER = {"x86_64": 321, "ppc64le": 361, "ppc64": 361, "s390x": 351, "armv7l": 386, "i686": 357}.get(
    os.uname().machine, 280
)

#: type, instructions and where they are, licence, the verifier's log (level, size, where), kernel version, flags, name
_LOAD = Struct("=IIQQIIQII16s")
_LOG_SIZE = 1 << 16
#: More programs than the kernel has room for in one cgroup (BPF_CGROUP_MAX_PROGS).
_MOST_PROGRAMS = 64


def _bpf(command: int, attributes: foreign.Array[foreign.c_char]) -> int:
    return check(
        libc.syscall(foreign.c_long(_NUMBER), foreign.c_int(command), attributes, foreign.c_uint(len(attributes)))
    )


def _attributes(data: bytes) -> foreign.Array[foreign.c_char]:
    return foreign.create_string_buffer(data, len(data))


def load_device_program(instructions: bytes) -> int:
    """Load a program that says which devices may be used (BPF_PROG_TYPE_CGROUP_DEVICE). Returns its descriptor.

    OSError: EPERM without CAP_BPF or CAP_SYS_ADMIN; with the verifier's words if it refuses the program.
    """
    code = foreign.create_string_buffer(instructions, len(instructions))
    licence = foreign.create_string_buffer(b"Apache-2.0")

    def load(log: foreign.Array[foreign.c_char] | None) -> int:
        level, size, where = (1, len(log), foreign.addressof(log)) if log is not None else (0, 0, 0)
        count = len(instructions) // 8
        return _bpf(
            _PROG_LOAD,
            _attributes(
                _LOAD.pack(
                    _PROG_TYPE_CGROUP_DEVICE,
                    count,
                    foreign.addressof(code),
                    foreign.addressof(licence),
                    level,
                    size,
                    where,
                    0,
                    0,
                    b"wherry_devices",
                )
            ),
        )

    try:
        return load(None)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        log = foreign.create_string_buffer(_LOG_SIZE)
        try:
            return load(log)
        except OSError as again:
            raise OSError(
                again.errno, f"{os.strerror(again.errno or 0)}: {log.value.decode(errors='replace')}"
            ) from None


def replace_device_programs(cgroup: int, program: int) -> None:
    """Put a program in the place of those that a cgroup has. At no moment is there none. OSError.

    `cgroup` is a descriptor of its directory. All of a cgroup's programs, and of those above it, have to agree.
    """
    old = _device_programs(cgroup)
    try:
        if len(old) == 1:
            _bpf(_PROG_ATTACH, _target(cgroup, program, _F_ALLOW_MULTI | _F_REPLACE, old[0]))
            return
        _bpf(_PROG_ATTACH, _target(cgroup, program, _F_ALLOW_MULTI))
        for fd in old:
            _bpf(_PROG_DETACH, _target(cgroup, fd, 0))
    finally:
        for fd in old:
            os.close(fd)


def count_device_programs(cgroup: int) -> int:
    """Return how many programs a cgroup has, by a descriptor of its directory. OSError."""
    programs: Sequence[int] = _device_programs(cgroup)
    for fd in programs:
        os.close(fd)
    return len(programs)


def _target(cgroup: int, program: int, flags: int, replaced: int = 0) -> foreign.Array[foreign.c_char]:
    return _attributes(pack("=IIIII", cgroup, program, _CGROUP_DEVICE, flags, replaced))


def _device_programs(cgroup: int) -> list[int]:
    """Return descriptors of the programs that a cgroup itself has."""
    ids = foreign.create_string_buffer(4 * _MOST_PROGRAMS)
    query = _attributes(pack("=IIIIQII", cgroup, _CGROUP_DEVICE, 0, 0, foreign.addressof(ids), _MOST_PROGRAMS, 0))
    _bpf(_PROG_QUERY, query)
    (count,) = unpack_from("=I", query.raw, 24)
    found: list[int] = []
    try:
        for (id,) in (unpack_from("=I", ids.raw, 4 * index) for index in range(count)):
            try:
                found.append(_bpf(_PROG_GET_FD_BY_ID, _attributes(pack("=III", id, 0, 0))))
            except FileNotFoundError:
                continue  # taken away meanwhile
    except BaseException:
        for fd in found:
            os.close(fd)
        raise
    return found

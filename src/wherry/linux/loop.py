"""Loop devices: a regular file as a block device; loop(4)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_NAME_SIZE = 64

#: How often another process may take the free device from under us before we give up.
_ATTEMPTS = 100


class _LoopInfo64(ctypes.Structure):
    _fields_ = (
        ("lo_device", ctypes.c_uint64),
        ("lo_inode", ctypes.c_uint64),
        ("lo_rdevice", ctypes.c_uint64),
        ("lo_offset", ctypes.c_uint64),
        ("lo_sizelimit", ctypes.c_uint64),
        ("lo_number", ctypes.c_uint32),
        ("lo_encrypt_type", ctypes.c_uint32),
        ("lo_encrypt_key_size", ctypes.c_uint32),
        ("lo_flags", ctypes.c_uint32),
        ("lo_file_name", ctypes.c_char * _LO_NAME_SIZE),
        ("lo_crypt_name", ctypes.c_char * _LO_NAME_SIZE),
        ("lo_encrypt_key", ctypes.c_char * 32),
        ("lo_init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo64),
        ("reserved", ctypes.c_uint64 * 8),
    )


def attach(path: str, *, read_only: bool = False) -> tuple[int, str]:
    """Attach a file to a free loop device, which is freed when its last user closes or unmounts it.

    Returns a descriptor of the device, which keeps it until closed, and its path. Raises OSError (ENODEV or ENOENT
    where the kernel has no loop devices). Linux 5.8.
    """
    access = os.O_RDONLY if read_only else os.O_RDWR
    backing = os.open(path, access | os.O_CLOEXEC)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):
                device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                fd = os.open(device, access | os.O_CLOEXEC)
                try:
                    _configure(fd, backing, path, read_only)
                except OSError as error:
                    os.close(fd)
                    if error.errno != errno.EBUSY:
                        raise
                else:
                    return fd, device
        finally:
            os.close(control)
    finally:
        os.close(backing)
    raise OSError(errno.EBUSY, "no free loop device", path)


def _configure(fd: int, backing: int, path: str, read_only: bool) -> None:
    config = _LoopConfig(fd=backing)
    config.info.lo_flags = _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_READ_ONLY if read_only else 0)
    config.info.lo_file_name = os.fsencode(path)[: _LO_NAME_SIZE - 1]
    fcntl.ioctl(fd, _LOOP_CONFIGURE, bytes(config))

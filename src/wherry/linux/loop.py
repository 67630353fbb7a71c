"""Loop devices: a regular file as a block device; loop(4)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_GET_STATUS64 = 0x4C05
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16
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


def attach(path: str, *, read_only: bool = False, direct: bool = False) -> tuple[int, str]:
    """Attach a file to a free loop device, which is freed when its last user closes or unmounts it.

    `direct` asks for direct I/O on the file, past the page cache.
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
                    _configure(fd, backing, path, read_only, direct)
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


def keep(fd: int, kept: bool) -> None:
    """Let a loop device stay when its last user goes, or go with it again. Raises OSError."""
    info = _LoopInfo64()
    fcntl.ioctl(fd, _LOOP_GET_STATUS64, info)
    info.lo_flags = info.lo_flags & ~_LO_FLAGS_AUTOCLEAR if kept else info.lo_flags | _LO_FLAGS_AUTOCLEAR
    fcntl.ioctl(fd, _LOOP_SET_STATUS64, bytes(info))


def backing_file(device: str) -> str:
    """Return the path of the file that a loop device is attached to, "" if to none."""
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/backing_file") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _configure(fd: int, backing: int, path: str, read_only: bool, direct: bool) -> None:
    config = _LoopConfig(fd=backing)
    flags = _LO_FLAGS_READ_ONLY if read_only else 0
    config.info.lo_flags = flags | _LO_FLAGS_AUTOCLEAR | (_LO_FLAGS_DIRECT_IO if direct else 0)
    config.info.lo_file_name = os.fsencode(path)[: _LO_NAME_SIZE - 1]
    fcntl.ioctl(fd, _LOOP_CONFIGURE, bytes(config))

"""The runtime's own /proc, kept open when the container's root is entered: nobody in there can put another in its
place (CVE-2019-16884, CVE-2025-52881).

proc(5); openat2(2).
"""

from __future__ import annotations

import errno
import os

from wherry.errors import Unknown
from wherry.linux.openat2 import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from wherry.linux.statfs import PROC_SUPER_MAGIC, filesystem_type
from wherry.runc.sysctls import sysctl_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class HostProc:
    """The proc file system that this process was started with."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        """Unknown if /proc is none."""
        self._fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if filesystem_type(self._fd) != PROC_SUPER_MAGIC:
            raise Unknown("/proc is no proc file system")

    def close(self) -> None:
        os.close(self._fd)

    def write(self, path: str, text: str) -> None:
        """Write to a file that is no link and not mounted over. OSError."""
        fd = self._open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int) -> int:
        resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
        return openat2(self._fd, path, flags | os.O_CLOEXEC, resolve=resolve)

    def write_own(self, path: str, text: str) -> None:
        """Write to a file of this process's own. OSError."""
        # Its pid is another one here than in a pid namespace of the container's.
        self.write(f"{os.readlink('self', dir_fd=self._fd)}/{path}", text)

    def _has_own(self, path: str) -> bool:
        try:
            os.stat(f"{os.readlink('self', dir_fd=self._fd)}/{path}", dir_fd=self._fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def denies_groups(self) -> bool:
        """Tell whether this process's user namespace is one that may not set groups. user_namespaces(7)."""
        fd = self._open(f"{os.readlink('self', dir_fd=self._fd)}/setgroups", os.O_RDONLY)
        try:
            return os.read(fd, 16).strip() == b"deny"
        finally:
            os.close(fd)

    def reopen(self, fd: int, flags: int) -> int:
        """Open what an O_PATH descriptor of this process names. OSError."""
        return os.open(f"{os.readlink('self', dir_fd=self._fd)}/fd/{fd}", flags | os.O_CLOEXEC, dir_fd=self._fd)

    def set_sysctls(self, values: Mapping[str, str]) -> None:
        """Set kernel parameters of this process's namespaces. Unknown, naming the parameter."""
        for name, value in values.items():
            try:
                self.write(f"sys/{sysctl_path(name)}", value)
            except OSError as error:
                reason = (error.strerror or "").lower()
                raise Unknown(f"failed to write sysctl {name}={value}: {reason}") from None

    def set_apparmor_profile(self, profile: str) -> None:
        """Have the next execve(2) put this process under an AppArmor profile. Unknown without AppArmor."""
        for path in ("attr/apparmor/exec", "attr/exec"):
            try:
                self.write_own(path, f"exec {profile}")
                return
            except OSError as error:
                # The profile is what is not there, if the file is.
                if isinstance(error, FileNotFoundError) and not self._has_own(path):
                    continue
                raise Unknown(f"apparmor profile {profile!r}: {_apparmor_reason(error)}") from None
        raise Unknown(f"apparmor profile {profile!r}: apparmor is not enabled on this host")

    def set_selinux_label(self, label: str) -> None:
        """Have the next execve(2) give this process an SELinux label. Unknown if the kernel refuses."""
        try:
            self.write_own("attr/exec", label)
        except OSError as error:
            raise Unknown(f"selinux label {label!r}: {(error.strerror or '').lower()}") from None


def _apparmor_reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such profile: load it with apparmor_parser(8)"
    if error.errno == errno.EINVAL:
        return "apparmor is not enabled on this host"
    return (error.strerror or "").lower()

"""Types of mounts that the daemon makes itself: ``loop``, a file as a block device, and ``erofs``."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from wherry.linux import loop
from wherry.linux.mount import UMOUNT_NOFOLLOW, Mount, mount_one, umount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Handler(Protocol):
        """Makes mounts of one type, and takes them away. Both block, for a moment."""

        def mount(self, mount: Mount, mount_point: str) -> None:
            """Make a mount at a path that does not exist. Raises OSError."""

        def unmount(self, mount: Mount, mount_point: str) -> None:
            """Take it away again, if it is there. Raises OSError."""


class Plain:
    """Any type that the kernel mounts."""

    def mount(self, mount: Mount, mount_point: str) -> None:
        os.mkdir(mount_point, 0o700)
        mount_one(mount, mount_point)

    def unmount(self, mount: Mount, mount_point: str) -> None:
        try:
            # Below it there is nothing that the mount's target could be.
            umount(mount_point, UMOUNT_NOFOLLOW)
        except OSError as error:
            # Not mounted, or never made.
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise


class Erofs(Plain):
    """An EROFS image: from its file where the kernel can (Linux 6.12), else through a loop device."""

    def mount(self, mount: Mount, mount_point: str) -> None:
        os.mkdir(mount_point, 0o700)
        options = [option for option in mount.options if option != "loop"]
        try:
            mount_one(Mount(mount.type, mount.source, options, mount.target), mount_point)
        except OSError as error:
            if error.errno != errno.ENOTBLK:
                raise
            devices: list[int] = []
            try:
                mount_one(self._on_devices(mount, options, devices), mount_point)
            finally:
                # Each is freed with its last user, which is the mount now.
                for fd in devices:
                    os.close(fd)

    @staticmethod
    def _on_devices(mount: Mount, options: Sequence[str], devices: list[int]) -> Mount:
        def device(path: str) -> str:
            fd, name = loop.attach(path, read_only=True)
            devices.append(fd)
            return name

        named = [f"device={device(o.removeprefix('device='))}" if o.startswith("device=") else o for o in options]
        return Mount(mount.type, device(mount.source), named, mount.target)


class Loop:
    """A file as a loop device, to which the mount point is a symbolic link."""

    def mount(self, mount: Mount, mount_point: str) -> None:
        fd, device = loop.attach(mount.source, read_only="ro" in mount.options, direct="direct-io" in mount.options)
        try:
            # Whenever the daemon dies: until the link is there, the device goes with our descriptor.
            os.symlink(device, mount_point)
            loop.keep(fd, True)
        except OSError:
            if os.path.islink(mount_point):
                os.unlink(mount_point)
            raise
        finally:
            os.close(fd)

    def unmount(self, mount: Mount, mount_point: str) -> None:
        try:
            device = os.readlink(mount_point)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return
            raise
        if attached(mount, device):
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                loop.keep(fd, False)
            finally:
                os.close(fd)
        os.unlink(mount_point)


def attached(mount: Mount, device: str) -> bool:
    """Say whether a loop device is that of a mount: after the machine's restart it may be somebody else's."""
    return loop.backing_file(device).removesuffix(" (deleted)") == os.path.realpath(mount.source)


#: By type.
HANDLERS: dict[str, Handler] = {"erofs": Erofs(), "loop": Loop()}

PLAIN: Handler = Plain()


def handler(type: str) -> Handler:
    """Return what makes mounts of a type."""
    return HANDLERS.get(type, PLAIN)

"""What the options of a mount in config.json ask for. OCI runtime specification, config.md, "Linux mount options"."""

from __future__ import annotations

from wherry.errors import InvalidArgument
from wherry.linux import detached as d
from wherry.linux import mount as m

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

#: By option: the flags of mount(2), and whether they are taken away instead.
_FLAGS = {
    "async": (m.MS_SYNCHRONOUS, True),
    "atime": (m.MS_NOATIME, True),
    "bind": (m.MS_BIND, False),
    "defaults": (0, False),
    "dev": (m.MS_NODEV, True),
    "diratime": (m.MS_NODIRATIME, True),
    "dirsync": (m.MS_DIRSYNC, False),
    "exec": (m.MS_NOEXEC, True),
    "iversion": (1 << 23, False),
    "lazytime": (m.MS_LAZYTIME, False),
    "loud": (m.MS_SILENT, True),
    "mand": (m.MS_MANDLOCK, False),
    "noatime": (m.MS_NOATIME, False),
    "nodev": (m.MS_NODEV, False),
    "nodiratime": (m.MS_NODIRATIME, False),
    "noexec": (m.MS_NOEXEC, False),
    "noiversion": (1 << 23, True),
    "nolazytime": (m.MS_LAZYTIME, True),
    "nomand": (m.MS_MANDLOCK, True),
    "norelatime": (m.MS_RELATIME, True),
    "nostrictatime": (m.MS_STRICTATIME, True),
    "nosuid": (m.MS_NOSUID, False),
    "nosymfollow": (m.MS_NOSYMFOLLOW, False),
    "rbind": (m.MS_BIND | m.MS_REC, False),
    "relatime": (m.MS_RELATIME, False),
    "remount": (m.MS_REMOUNT, False),
    "ro": (m.MS_RDONLY, False),
    "rw": (m.MS_RDONLY, True),
    "silent": (m.MS_SILENT, False),
    "strictatime": (m.MS_STRICTATIME, False),
    "suid": (m.MS_NOSUID, True),
    "symfollow": (m.MS_NOSYMFOLLOW, True),
    "sync": (m.MS_SYNCHRONOUS, False),
}
_PROPAGATIONS = {
    "private": (m.MS_PRIVATE, False),
    "rprivate": (m.MS_PRIVATE, True),
    "rshared": (m.MS_SHARED, True),
    "rslave": (m.MS_SLAVE, True),
    "runbindable": (m.MS_UNBINDABLE, True),
    "shared": (m.MS_SHARED, False),
    "slave": (m.MS_SLAVE, False),
    "unbindable": (m.MS_UNBINDABLE, False),
}
#: mount_setattr(2)'s bits to set and to clear, for the mount and all below it.
_RECURSIVE = {
    "ratime": (0, d.MOUNT_ATTR__ATIME),
    "rdev": (0, d.MOUNT_ATTR_NODEV),
    "rdiratime": (0, d.MOUNT_ATTR_NODIRATIME),
    "rexec": (0, d.MOUNT_ATTR_NOEXEC),
    "rnoatime": (d.MOUNT_ATTR_NOATIME, d.MOUNT_ATTR__ATIME),
    "rnodev": (d.MOUNT_ATTR_NODEV, 0),
    "rnodiratime": (d.MOUNT_ATTR_NODIRATIME, 0),
    "rnoexec": (d.MOUNT_ATTR_NOEXEC, 0),
    "rnorelatime": (0, d.MOUNT_ATTR__ATIME),
    "rnostrictatime": (0, d.MOUNT_ATTR__ATIME),
    "rnosuid": (d.MOUNT_ATTR_NOSUID, 0),
    "rnosymfollow": (d.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "rrelatime": (d.MOUNT_ATTR_RELATIME, d.MOUNT_ATTR__ATIME),
    "rro": (d.MOUNT_ATTR_RDONLY, 0),
    "rrw": (0, d.MOUNT_ATTR_RDONLY),
    "rstrictatime": (d.MOUNT_ATTR_STRICTATIME, d.MOUNT_ATTR__ATIME),
    "rsuid": (0, d.MOUNT_ATTR_NOSUID),
    "rsymfollow": (0, d.MOUNT_ATTR_NOSYMFOLLOW),
}

#: The flags of mount(2) that belong to a mount and not to its file system.
_ATTRIBUTES = {
    m.MS_RDONLY: d.MOUNT_ATTR_RDONLY,
    m.MS_NOSUID: d.MOUNT_ATTR_NOSUID,
    m.MS_NODEV: d.MOUNT_ATTR_NODEV,
    m.MS_NOEXEC: d.MOUNT_ATTR_NOEXEC,
    m.MS_NODIRATIME: d.MOUNT_ATTR_NODIRATIME,
    m.MS_NOSYMFOLLOW: d.MOUNT_ATTR_NOSYMFOLLOW,
}
_ATIME = {m.MS_NOATIME: d.MOUNT_ATTR_NOATIME, m.MS_STRICTATIME: d.MOUNT_ATTR_STRICTATIME, m.MS_RELATIME: 0}


class MountOptions:
    """What options say, sorted by how it is done."""

    __slots__ = (
        "clear",
        "copy_up",
        "data",
        "flags",
        "idmap",
        "propagations",
        "recursive_clear",
        "recursive_set",
    )

    def __init__(self) -> None:
        #: mount(2)'s flags.
        self.flags = 0
        #: Flags that an option has taken away: a bind mount loses them, which it has from its source.
        self.clear = 0
        #: Propagations in their order, and whether each is for all below the mount.
        self.propagations: list[tuple[int, bool]] = []
        self.recursive_set = 0
        self.recursive_clear = 0
        #: "tmpcopyup": what lies below the mount point is copied into the new tmpfs.
        self.copy_up = False
        #: "idmap" or "ridmap", "" for neither.
        self.idmap = ""
        #: What only the file system understands.
        self.data: list[str] = []

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & m.MS_BIND)

    @property
    def is_recursive(self) -> bool:
        return bool(self.flags & m.MS_REC)

    def attributes(self) -> tuple[int, int]:
        """Return mount_setattr(2)'s bits to set and to clear for a bind mount, (0, 0) to leave it as it is.

        As a remount does: one flag that is named replaces all that the mount has from its source, but for the times.
        """
        if not self.flags & ~(m.MS_BIND | m.MS_REC | m.MS_REMOUNT):
            return 0, 0
        set = clear = 0
        for flag, attribute in _ATTRIBUTES.items():
            if self.flags & flag:
                set |= attribute
            else:
                clear |= attribute
        for flag, attribute in _ATIME.items():
            if self.flags & flag:
                set |= attribute
                clear |= d.MOUNT_ATTR__ATIME
        return set, clear


def parse_mount_options(options: Iterable[str]) -> MountOptions:
    """Sort options. InvalidArgument for one that cannot be."""
    result = MountOptions()
    for option in options:
        if option in _FLAGS:
            flag, cleared = _FLAGS[option]
            if cleared:
                result.flags &= ~flag
                result.clear |= flag
            else:
                result.flags |= flag
                result.clear &= ~flag
        elif option in _PROPAGATIONS:
            result.propagations.append(_PROPAGATIONS[option])
        elif option in _RECURSIVE:
            set, clear = _RECURSIVE[option]
            result.recursive_set = result.recursive_set & ~clear | set
            result.recursive_clear = result.recursive_clear & ~set | clear
        elif option == "tmpcopyup":
            result.copy_up = True
        elif option in ("idmap", "ridmap"):
            result.idmap = option
        else:
            if "\0" in option:
                raise InvalidArgument(f"mount option {option!r} has a NUL byte")
            result.data.append(option)
    return result

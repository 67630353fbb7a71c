"""Overlays as this kernel can have them: the options of those that show snapshots."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from wherry.linux import mount, tree
from wherry.linux.mount import Mount

_PARAMETERS = "/sys/module/overlay/parameters"


class Overlay:
    """Makes the mounts that put directories over each other, options in containerd 1.6's order."""

    def __init__(self, root: str) -> None:
        """Find out what can be mounted with directories below `root`. Raises OSError if nothing can."""
        # An unprivileged mount keeps its marks in other attributes, if the kernel can do that at all (5.11).
        self.user_xattrs = not in_initial_user_namespace()
        options = ["userxattr"] if self.user_xattrs else []
        _try(root, options)
        try:
            _try(root, [*options, "volatile"])
            self._can_be_volatile = True
        except OSError:
            self._can_be_volatile = False  # before Linux 5.10
        # After the trial, which loads the module. An index would pin the upper directory to its first lower one.
        self._options = ["index=off"] if os.path.exists(f"{_PARAMETERS}/index") else []
        self._options += options
        # What these leave in an upper directory stands for files below it, so it would be no layer of its own.
        # containerd trusts that nobody has turned them on for the whole system.
        self._options += [f"{name}=off" for name in ("redirect_dir", "metacopy") if _is_on(name)]

    def mount(self, lowers: Sequence[str], upper: str = "", work: str = "", *, volatile: bool = False) -> Mount:
        """Return the mount of lower directories, top first, with an upper one if there is one.

        A volatile one's mount syncs nothing (Documentation/filesystems/overlayfs.rst, "Volatile mount").
        """
        options = list(self._options)
        if upper:
            options += [f"workdir={work}", f"upperdir={upper}"]
            if volatile and self._can_be_volatile:
                options.append("volatile")
        options.append("lowerdir=" + ":".join(lowers))
        return Mount("overlay", "overlay", options)


def in_initial_user_namespace() -> bool:
    """Say whether this process has its privileges from the system's own user namespace."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _is_on(parameter: str) -> bool:
    try:
        with open(f"{_PARAMETERS}/{parameter}") as file:
            return file.read().strip() in ("Y", "1")
    except FileNotFoundError:  # a kernel that does not know it
        return False


def _try(root: str, options: Sequence[str]) -> None:
    with ExitStack() as stack:
        trial = tempfile.mkdtemp(prefix="trial-", dir=root)
        stack.callback(tree.remove, trial)
        for name in ("lower1", "lower2", "upper", "work", "merged"):
            os.mkdir(os.path.join(trial, name))
        data = [
            *options,
            f"lowerdir={trial}/lower2:{trial}/lower1",
            f"upperdir={trial}/upper",
            f"workdir={trial}/work",
        ]
        mount.mount("overlay", f"{trial}/merged", "overlay", 0, ",".join(data))
        stack.callback(mount.umount, f"{trial}/merged", mount.MNT_DETACH)

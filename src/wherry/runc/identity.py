"""Who a container's process is: ids, groups, capabilities, what it may not gain. capabilities(7), credentials(7)."""

from __future__ import annotations

import os
import stat

from wherry.errors import InvalidArgument, Unknown
from wherry.linux import capabilities
from wherry.linux.process import set_dumpable, set_no_new_privileges
from wherry.oci.user import MAX_FILE, home_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class CapabilitySets:
    """The five sets as masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted", "unknown")

    def __init__(self, sets: Mapping[str, Any]) -> None:
        """`sets` is the specification's `process.capabilities`. Names that there are not are kept in `unknown`."""
        self.unknown: list[str] = []
        self.bounding = self._mask(sets, "bounding")
        self.effective = self._mask(sets, "effective")
        self.inheritable = self._mask(sets, "inheritable")
        self.permitted = self._mask(sets, "permitted")
        self.ambient = self._mask(sets, "ambient")

    def _mask(self, sets: Mapping[str, Any], name: str) -> int:
        mask, unknown = capabilities.mask(sets.get(name) or ())
        self.unknown += [each for each in unknown if each not in self.unknown]
        return mask


class Identity:
    """What a process document says of who its process is, ready to be taken."""

    __slots__ = ("capabilities", "gid", "groups", "no_new_privileges", "uid", "umask")

    def __init__(self, process: Mapping[str, Any]) -> None:
        user = process.get("user") or {}
        self.uid = int(user.get("uid") or 0)
        self.gid = int(user.get("gid") or 0)
        self.groups = [int(gid) for gid in dict.fromkeys(user.get("additionalGids") or ())]
        self.umask = int(user["umask"]) if user.get("umask") is not None else 0o022
        self.no_new_privileges = bool(process.get("noNewPrivileges"))
        sets = process.get("capabilities")
        #: None: they stay as they come out of the change of ids.
        self.capabilities = CapabilitySets(sets) if sets is not None else CapabilitySets({})

    def take(self, *, cwd: str, may_set_groups: bool) -> None:
        """Become it, and enter the working directory. Unknown, naming the step. The process is never dumpable here."""
        if self.no_new_privileges:
            set_no_new_privileges()
        held = self.capabilities
        try:
            capabilities.drop_bounding(held.bounding)
            capabilities.keep_capabilities(True)
        except OSError as error:
            raise Unknown(f"unable to apply bounding set: {(error.strerror or '').lower()}") from None
        entered = _enter(cwd)
        self._take_ids(may_set_groups)
        if entered is not None:
            # Perhaps only the user itself may: a home of mode 700 on a file system that knows no root.
            entered = _enter(cwd)
        if entered is not None:
            reason = (entered.strerror or "").lower()
            raise Unknown(f'chdir to cwd ("{cwd}") set in config.json failed: {reason}')
        try:
            capabilities.keep_capabilities(False)
            capabilities.set_capabilities(held.effective, held.permitted, held.inheritable)
            capabilities.set_ambient(held.ambient)
        except OSError as error:
            raise Unknown(f"unable to apply caps: {(error.strerror or '').lower()}") from None
        os.umask(self.umask)

    def _take_ids(self, may_set_groups: bool) -> None:
        try:
            if may_set_groups:
                os.setgroups(self.groups)
            elif self.groups:
                raise Unknown("additionalGids: this user namespace may not set groups")
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            set_dumpable(False)  # fs.suid_dumpable may have made it so again
        except OSError as error:
            raise Unknown(f"unable to become user {self.uid}:{self.gid}: {(error.strerror or '').lower()}") from None


def _enter(cwd: str) -> OSError | None:
    try:
        os.chdir(cwd)
    except OSError as error:
        return error
    return None


def check_cwd() -> None:
    """Unknown unless the working directory lies inside the root, getcwd(2): no descriptor led out (CVE-2024-21626)."""
    try:
        path = os.getcwd()
    except OSError as error:
        raise Unknown(f"current working directory is outside of container root: {error.strerror}") from None
    if not path.startswith("/"):
        raise Unknown("current working directory is outside of container mount namespace root -- possible attack")


def home_of(uid: int) -> str:
    """Return a user's home by the /etc/passwd of the root that this process is in, "/" where it says none."""
    try:
        # No FIFO holds this up, and no larger file is read.
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return "/"
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
            return "/"
        return home_directory(os.read(fd, MAX_FILE), uid)
    finally:
        os.close(fd)


def environment(process: Mapping[str, Any]) -> dict[str, str]:
    """Return a process document's environment; of a name that is there twice the last one stands.

    InvalidArgument for an entry that is no `NAME=VALUE`.
    """
    result = {}
    for entry in process.get("env") or ():
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise InvalidArgument(f'invalid environment variable: "{entry}"')
        result[name] = value
    return result


def find_program(name: str, path: str) -> str:
    """Return the file that a command names, by PATH unless it has a slash. Unknown in the words of Go's os/exec."""
    if "/" in name:
        if reason := _refusal(name):
            raise Unknown(f'exec: "{name}": {reason}')
        return name
    for directory in path.split(":") if path else ():
        candidate = f"{directory or '.'}/{name}"
        if not _refusal(candidate):
            if not candidate.startswith("/"):
                # As Go's: a program of the working directory is run only by a name that says so.
                raise Unknown(f'exec: "{name}": cannot run executable found relative to current directory')
            return candidate
    raise Unknown(f'exec: "{name}": executable file not found in $PATH')


def _refusal(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"stat {path}: {(error.strerror or '').lower()}"
    if stat.S_ISDIR(mode):
        return "permission denied"
    return "" if os.access(path, os.X_OK, effective_ids=True) else "permission denied"

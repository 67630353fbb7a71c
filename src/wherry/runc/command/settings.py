"""The global flags, and what they come to."""

from __future__ import annotations

import os
import stat

from wherry.errors import Unknown
from wherry.runc.command.flags import SWITCH, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runc.command.flags import Values
    from wherry.runc.command.log import Log

#: runc's is /run/runc: neither runtime may take the other's containers for its own.
_ROOT = "/run/wherry-runc"
_NAME = "wherry-runc"

FLAGS = (
    Flag("debug", "write what is done to the log as well", SWITCH),
    Flag("log", "write the log to a file instead of standard error"),
    Flag("log-format", "the log's form: text or json", default="text"),
    Flag(
        "root",
        f"where the state of containers is kept, a tmpfs (default: {_ROOT}, or $XDG_RUNTIME_DIR/{_NAME} without root)",
    ),
    Flag("criu", "the criu program, for checkpoint and restore", default="criu"),
    Flag("systemd-cgroup", "have systemd make cgroups: cgroupsPath has the form slice:prefix:name", SWITCH),
    Flag("rootless", "bear with cgroups that may not be written: true, false or auto", default="auto"),
)

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class Settings:
    """What holds for every command."""

    def __init__(self, values: Values, log: Log) -> None:
        """Take the values of the global flags. Unknown if the directory for the state can't be made."""
        self.log = log
        #: An absolute path.
        self.root = os.path.abspath(values.text("root")) if values.has("root") else _default_root()
        self.criu = values.text("criu")
        self.systemd_cgroup = values.switch("systemd-cgroup")
        self._rootless = values.text("rootless")
        #: The socket of a service manager that wants to be told when a container is ready, "" for none: sd_notify(3).
        self.notify_socket = os.environ.get("NOTIFY_SOCKET", "")

    def is_rootless(self) -> bool:
        """Tell whether cgroups that may not be written are none of our business. Unknown for a value that is none."""
        if self._rootless in _TRUE:
            return True
        if self._rootless in _FALSE:
            return False
        if self._rootless not in ("", "auto"):
            raise Unknown(f'strconv.ParseBool: parsing "{self._rootless}": invalid syntax')
        if os.geteuid() != 0:
            return True
        # Root of a user namespace: systemd makes cgroups for whoever owns that, and nobody else does.
        return not self.systemd_cgroup and _in_user_namespace()


def _default_root() -> str:
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if not directory or not _heeds_xdg():
        return _ROOT
    root = os.path.join(directory, _NAME)
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        # By the XDG base directory specification whatever has no sticky bit there may be removed when it is old.
        os.chmod(root, 0o700 | stat.S_ISVTX)
    except OSError as error:
        raise Unknown(
            f"mkdir {root}: {(error.strerror or '').lower()}: $XDG_RUNTIME_DIR has to be the user's own"
        ) from None
    return root


def _heeds_xdg() -> bool:
    if os.geteuid() != 0:
        return True
    return _in_user_namespace() and os.environ.get("USER") != "root"


def _in_user_namespace() -> bool:
    """Tell whether this is another user namespace than the first one. user_namespaces(7)."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]

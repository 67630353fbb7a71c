"""`wherry-runc features`. The document of the OCI runtime specification, features.md and features-linux.md."""

from __future__ import annotations

import sys

from wherry.runc.command.command import Command
from wherry.runc.command.go_json import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call

COMMAND = Command(
    "print what this runtime can do",
    "",
    "Print what of the OCI runtime specification this runtime can do, as the specification's features document (JSON).",
    least=0,
    most=0,
)

MOUNT_OPTIONS = (
    "acl async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noacl noatime nodev "
    "nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind "
    "rdev rdiratime relatime remount rexec ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime "
    "rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw "
    "shared silent slave strictatime suid symfollow sync tmpcopyup unbindable"
)
_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def run(call: Call) -> int:
    sys.stdout.write(encode(features(), indent="    ") + "\n")
    return 0


def features() -> dict[str, Any]:
    """Return the document."""
    import wherry
    from wherry.linux.capability_names import CAPABILITIES
    from wherry.runc.command.version import SPECIFICATION, libseccomp_version
    from wherry.runc.spec import NAMESPACES

    library = libseccomp_version()
    annotations = {"io.github.wherry.version": wherry.__version__}
    if library:
        annotations["io.github.seccomp.libseccomp.version"] = library
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPECIFICATION,
        "hooks": list(_HOOKS),
        "mountOptions": MOUNT_OPTIONS.split(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False},
            "seccomp": _seccomp() if library else {"enabled": False},
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": dict(sorted(annotations.items())),
    }


def _seccomp() -> dict[str, Any]:
    from wherry.runc.libseccomp import Library
    from wherry.runc.seccomp import FLAGS
    from wherry.runc.seccomp_profile import ACTIONS, ARCHITECTURES, OPERATORS

    library = Library()
    return {
        "enabled": True,
        "actions": sorted(ACTIONS),
        "operators": sorted(OPERATORS),
        "archs": sorted(name for name, known in ARCHITECTURES.items() if library.architecture(known)),
        "knownFlags": sorted(FLAGS),
        "supportedFlags": sorted(FLAGS),
    }

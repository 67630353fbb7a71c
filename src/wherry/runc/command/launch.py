"""What create, run and restore have in common: a bundle, its specification, what the process inherits."""

from __future__ import annotations

import os

from wherry.errors import NotFound, Unknown
from wherry.runc.command.flags import NUMBER, SWITCH, Flag
from wherry.runc.state import directory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runc.command.command import Call
    from wherry.runc.create import CreateOptions
    from wherry.runc.spec import Spec

BUNDLE = Flag("bundle", "the bundle's directory, here by default", short="b")
CONSOLE_SOCKET = Flag("console-socket", "a unix socket that the process's terminal is sent to")
PID_FILE = Flag("pid-file", "a file for the process's pid")
PIDFD_SOCKET = Flag("pidfd-socket", "a unix socket that a pidfd of the process is sent to")
DETACH = Flag("detach", "leave the container to itself when its process runs", SWITCH, short="d")
NO_SUBREAPER = Flag("no-subreaper", "leave the container's orphans to init, not to this process", SWITCH)
NO_PIVOT = Flag("no-pivot", "enter the root by chroot, not by pivot_root: for a root file system on a ramdisk", SWITCH)
NO_NEW_KEYRING = Flag("no-new-keyring", "share the session keyring of whoever calls", SWITCH)
PRESERVE_FDS = Flag("preserve-fds", "hand on so many descriptors from 3 on, besides systemd's LISTEN_FDS", NUMBER)

#: The first descriptor that can be handed on.
_FIRST = 3


def enter_bundle(call: Call) -> Spec:
    """Make the bundle the working directory and return its specification. Unknown, InvalidArgument."""
    from wherry.runc.spec import CONFIG, load_spec

    bundle = call.values.text("bundle")
    if bundle:
        try:
            os.chdir(bundle)
        except OSError as error:
            raise Unknown(f"chdir {bundle}: {(error.strerror or '').lower()}") from None
    try:
        return load_spec(".")
    except NotFound:
        raise Unknown(f"JSON specification file {CONFIG} not found") from None


def pid_file(call: Call) -> str:
    """Return the pid file's absolute path, "" for none. To be called before the working directory is another."""
    path = call.values.text("pid-file")
    return os.path.abspath(path) if path else ""


def check_terminal(call: Call, process: dict[str, Any], *, detach: bool) -> None:
    """Raise Unknown unless the process's terminal, if it has one, has somewhere to go."""
    console_socket = call.values.text("console-socket")
    if detach and process.get("terminal") and not console_socket:
        raise Unknown("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (detach and process.get("terminal")):
        raise Unknown("cannot use console socket if runc will not detach or allocate tty")


def create_options(call: Call, pid_file: str) -> CreateOptions:
    """Return what the flags of create or run say; what systemd has for a service is handed on. Unknown."""
    from wherry.runc.create import CreateOptions

    listening = _listening_descriptors()
    options = CreateOptions(
        os.getcwd(),
        pid_file=pid_file,
        console_socket=call.values.text("console-socket"),
        preserve_fds=listening + preserved_descriptors(call, listening),
        no_pivot=call.values.switch("no-pivot"),
        no_new_keyring=call.values.switch("no-new-keyring"),
        systemd_cgroup=call.settings.systemd_cgroup,
        rootless=call.settings.is_rootless(),
    )
    options.pidfd_socket = call.values.text("pidfd-socket")
    if listening:
        options.environment += [f"LISTEN_FDS={listening}", "LISTEN_PID=1"]
    if call.settings.notify_socket:
        from wherry.runc.command import notify

        options.environment += notify.environment()
        options.mounts.append(notify.mount(directory_of(call.settings.root, call.id)))
        options.folder = notify.DIRECTORY
    return options


def preserved_descriptors(call: Call, listening: int = 0) -> int:
    """Return how many descriptors are handed on behind those to listen on. Unknown if one is not open."""
    number = call.values.number("preserve-fds")
    for index in range(number):
        try:
            os.fstat(_FIRST + listening + index)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise Unknown(f"unable to stat preserved-fd {index} (of {number}): {reason}") from None
    return max(number, 0)


def _listening_descriptors() -> int:
    """Return how many sockets systemd has opened for this process: sd_listen_fds(3)."""
    number = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not number.isdigit():
        return 0
    return int(number)


def host_root(spec: Spec) -> tuple[int, int]:
    """Return the user and group ids that root of a container has on the host."""
    linux = spec.get("linux") or {}
    return _first(linux.get("uidMappings")), _first(linux.get("gidMappings"))


def _first(mappings: list[dict[str, int]] | None) -> int:
    for mapping in mappings or ():
        if mapping["containerID"] == 0:
            return mapping["hostID"]
    return 0

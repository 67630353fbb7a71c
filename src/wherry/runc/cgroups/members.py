"""Who is in a container's cgroups, and what is said when one can't be brought in."""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.runc.cgroups.control_files import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: signal(7). The module of that name brings enum with it, which takes longer than all else in here.
SIGKILL = 9

#: runc's words before an error of making, of joining, and of setting limits.
APPLYING = "unable to apply cgroup configuration: "
ADDING = "error adding pid {pid} to cgroups: "
SETTING = "error setting cgroup config for procHooks process: "


class setting:  # noqa: N801 — it is used as a function
    """A context that puts errors of control files in runc's words, and those of a `new` container after others."""

    __slots__ = ("_prefix",)

    def __init__(self, new: bool) -> None:
        self._prefix = SETTING if new else ""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError):
            raise refused(error, self._prefix) from None
        if self._prefix and type(error) is Unknown:
            raise Unknown(self._prefix + error.message) from None


def sub_paths(arguments: Sequence[str]) -> dict[str, str]:
    """Return the sub-cgroups that arguments `[CONTROLLER[,CONTROLLER…]:]PATH` name; "" for every hierarchy.

    Unknown.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        controllers, colon, path = argument.rpartition(":")
        if ":" in controllers:
            raise Unknown(f"invalid --cgroup argument: {argument}")
        if not colon and len(arguments) != 1:
            raise Unknown(f"invalid --cgroup argument: {argument} (missing <controller>: prefix)")
        for controller in controllers.split(","):
            if controller in found:
                raise Unknown(f"invalid --cgroup argument(s): controller {controller} specified multiple times")
            found[controller] = path
    return found


def below(path: str, sub: str) -> str:
    """Return the path of a cgroup below another. Unknown if it is not below."""
    joined = os.path.normpath(f"{path}/{sub}")
    if joined != path and not joined.startswith(f"{path}/"):
        raise Unknown(f"{sub} is not a sub cgroup path")
    return joined


def send(pids: Callable[[], list[int]], signal: int, *, once: bool) -> None:
    """Send a signal to all processes, again until no new ones come or just `once`."""
    sent: set[int] = set()
    while new := set(pids()) - sent:
        for pid in new:
            try:
                os.kill(pid, signal)
            except ProcessLookupError:
                pass  # ended by itself
        sent |= new
        if once:
            return

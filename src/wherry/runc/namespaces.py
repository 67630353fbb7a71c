"""The namespaces of a container: which are new, which are joined, and the process made in them.

OCI runtime specification, config-linux.md, "Namespaces"; namespaces(7).
"""

from __future__ import annotations

import fcntl
import os

from wherry.errors import InvalidArgument, Unknown
from wherry.linux import namespaces as ns
from wherry.linux.process import set_dumpable
from wherry.runc.channel import ERROR, PID, ChannelClosed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from wherry.runc.cgroups.entrance import Entrance
    from wherry.runc.channel import Channel

FLAGS = {
    "user": ns.CLONE_NEWUSER,
    "ipc": ns.CLONE_NEWIPC,
    "uts": ns.CLONE_NEWUTS,
    "network": ns.CLONE_NEWNET,
    "pid": ns.CLONE_NEWPID,
    "mount": ns.CLONE_NEWNS,
    "cgroup": ns.CLONE_NEWCGROUP,
    "time": ns.CLONE_NEWTIME,
}

#: What the kernel calls them in /proc/[pid]/ns.
FILES = {
    "user": "user",
    "ipc": "ipc",
    "uts": "uts",
    "network": "net",
    "pid": "pid",
    "mount": "mnt",
    "cgroup": "cgroup",
    "time": "time",
}

#: Made by clone3(2). The cgroup namespace comes later, when the process is in its cgroup; the time namespace only
#: takes effect for the children of whoever makes it.
_CLONED = ns.CLONE_NEWUSER | ns.CLONE_NEWIPC | ns.CLONE_NEWUTS | ns.CLONE_NEWNET | ns.CLONE_NEWPID | ns.CLONE_NEWNS

#: Those that a process enters only by its children.
_FOR_CHILDREN = ns.CLONE_NEWPID | ns.CLONE_NEWTIME

_NS_GET_NSTYPE = 0xB703


class Namespaces:
    """What is new and what is joined, with the descriptors of the latter: to be closed."""

    __slots__ = ("joined", "needs_stage", "new", "time_offsets")

    def __init__(self, paths: Mapping[str, str], time_offsets: Mapping[str, Mapping[str, int]]) -> None:
        """`paths` has "" for a new namespace. InvalidArgument for a path of no such namespace."""
        self.new = 0
        self.time_offsets = time_offsets
        #: Descriptors by CLONE_NEW flag.
        self.joined: dict[int, int] = {}
        try:
            for type, path in paths.items():
                if path:
                    self.joined[FLAGS[type]] = _open(type, path)
                else:
                    self.new |= FLAGS[type]
        except BaseException:
            self.close()
            raise
        #: Whether a child must join the namespaces before the new ones are made: those belong to a joined user
        #: namespace, or a new one would have no right to join others, or this process could not come back.
        self.needs_stage = (
            ns.CLONE_NEWUSER in self.joined
            or bool(self.new & ns.CLONE_NEWUSER and self.joined)
            or not may_return(self.new & ns.CLONE_NEWTIME | sum(self.joined) & _FOR_CHILDREN)
        )

    def close(self) -> None:
        for fd in self.joined.values():
            os.close(fd)
        self.joined.clear()

    @property
    def has(self) -> int:
        """All of them, as flags."""
        flags = self.new
        for flag in self.joined:
            flags |= flag
        return flags

    @property
    def cloned(self) -> int:
        """Those that the process is made in."""
        if self.new & ns.CLONE_NEWUSER:
            # What comes with the others, such as the root of mqueue, belongs to whoever makes them: that has to be the
            # new namespace's root, which this process is not.
            return self.new & (ns.CLONE_NEWUSER | ns.CLONE_NEWPID)
        return self.new & _CLONED


def may_return(flags: int) -> bool:
    """Tell whether this process may have its children in its own pid or time namespace, which the flags name, again.

    Those of the host are not to be had by root of a user namespace.
    """
    for type in ("pid", "time"):
        if flags & FLAGS[type]:
            fd = os.open(f"/proc/self/ns/{FILES[type]}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                ns.setns(fd, FLAGS[type])
            except PermissionError:
                return False
            finally:
                os.close(fd)
    return True


def _open(type: str, path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise Unknown(f"unable to create new parent process: namespace path: lstat {path}: {reason}") from None
    try:
        if fcntl.ioctl(fd, _NS_GET_NSTYPE) == FLAGS[type]:
            return fd
    except OSError:
        pass  # no namespace at all: ENOTTY
    os.close(fd)
    raise InvalidArgument(f"{type} namespace: {path} is no namespace of this type")


def launch(
    spaces: Namespaces,
    run: Callable[[], NoReturn],
    ours: Channel,
    theirs: Channel,
    *,
    entrance: Entrance | None = None,
    sibling: bool = False,
) -> tuple[int, int]:
    """Make the process of a container, which calls `run`, and return its pid and a pidfd. Unknown.

    It is a child of this process, or with `sibling` of this process's parent. The channel's ends stay open here.
    """
    if spaces.needs_stage:
        return _launch_by_stage(spaces, run, ours, theirs, entrance, sibling)
    parent = ns.CLONE_PARENT if sibling else 0
    with _children_elsewhere(spaces):
        pid, pidfd = _clone(spaces.cloned | parent, entrance)
        if pid == 0:
            run()
    return pid, pidfd


def _clone(flags: int, entrance: Entrance | None = None) -> tuple[int, int]:
    try:
        return entrance.clone(flags) if entrance is not None else ns.clone(flags)
    except OSError as error:
        hint = ": user.max_user_namespaces, or no privileges?" if flags & ns.CLONE_NEWUSER else ""
        raise Unknown(f"unable to make namespaces: {(error.strerror or '').lower()}{hint}") from None


class _children_elsewhere:  # noqa: N801  # read as a statement
    """Within this, children are made in the pid and time namespaces that a container has; this process stays."""

    def __init__(self, spaces: Namespaces) -> None:
        self._spaces = spaces
        self._own: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        spaces = self._spaces
        flags = spaces.new & ns.CLONE_NEWTIME
        for flag in spaces.joined:
            flags |= flag & _FOR_CHILDREN
        if not flags:
            return
        for type in ("pid", "time"):
            if flags & FLAGS[type]:
                fd = os.open(f"/proc/self/ns/{FILES[type]}", os.O_RDONLY | os.O_CLOEXEC)
                self._own.append((fd, FLAGS[type]))
        try:
            _prepare_for_children(spaces)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        for fd, flag in self._own:
            ns.setns(fd, flag)
            os.close(fd)
        self._own.clear()


def _prepare_for_children(spaces: Namespaces) -> None:
    for flag in (ns.CLONE_NEWPID, ns.CLONE_NEWTIME):
        if flag in spaces.joined:
            join(spaces.joined[flag], flag)
    if spaces.new & ns.CLONE_NEWTIME:
        try:
            ns.unshare(ns.CLONE_NEWTIME)
            _set_time_offsets(spaces.time_offsets)
        except OSError as error:
            raise Unknown(f"unable to make the time namespace: {(error.strerror or '').lower()}") from None


def _set_time_offsets(offsets: Mapping[str, Mapping[str, int]]) -> None:
    lines = "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n" for clock, offset in offsets.items()
    )
    if lines:
        with open("/proc/self/timens_offsets", "w") as file:
            file.write(lines)


def join(fd: int, flag: int) -> None:
    """Enter a namespace. Unknown, naming its type."""
    try:
        ns.setns(fd, flag)
    except OSError as error:
        type = next(type for type, each in FLAGS.items() if each == flag)
        raise Unknown(f"unable to join the {type} namespace: {(error.strerror or '').lower()}") from None


def complete(spaces: Namespaces) -> None:
    """Make and enter, as the container's process, the namespaces that it was not made in. Unknown."""
    later = spaces.new & _CLONED & ~spaces.cloned
    if later:
        try:
            ns.unshare(later)
        except OSError as error:
            raise Unknown(f"unable to make namespaces: {(error.strerror or '').lower()}") from None
    if spaces.needs_stage:
        return  # the stage has joined them
    for flag, fd in spaces.joined.items():
        if not flag & (_FOR_CHILDREN | ns.CLONE_NEWUSER):
            join(fd, flag)


def _launch_by_stage(
    spaces: Namespaces,
    run: Callable[[], NoReturn],
    ours: Channel,
    theirs: Channel,
    entrance: Entrance | None,
    sibling: bool,
) -> tuple[int, int]:
    """Have a child join the namespaces and make the container's process, which then is its sibling."""
    stage, stage_pidfd = _clone(ns.CLONE_PARENT if sibling else 0, entrance)
    if stage == 0:
        _be_stage(spaces, run, theirs)
    os.close(stage_pidfd)
    try:
        pid = int(ours.expect(PID))
    except ChannelClosed:
        raise Unknown("the process that joins the namespaces was killed") from None
    finally:
        if not sibling:
            os.waitpid(stage, 0)
    return pid, os.pidfd_open(pid)


def _be_stage(spaces: Namespaces, run: Callable[[], NoReturn], channel: Channel) -> NoReturn:
    try:
        if os.geteuid() == 0 or not spaces.new & ns.CLONE_NEWUSER:  # else its child's maps could not be written
            set_dumpable(False)
        _join_as_stage(spaces)
        pid, _pidfd = _clone(spaces.cloned | ns.CLONE_PARENT)
        if pid == 0:
            run()
        channel.send(PID, str(pid))
    except Unknown as error:
        channel.send(ERROR, error.message)
    except BaseException as error:  # nothing may escape into the code of whoever was copied
        channel.send(ERROR, str(error))
    finally:
        os._exit(0)


def _join_as_stage(spaces: Namespaces) -> None:
    user = spaces.joined.get(ns.CLONE_NEWUSER, -1)
    later = []
    for flag, fd in spaces.joined.items():
        if flag == ns.CLONE_NEWUSER:
            continue
        try:
            ns.setns(fd, flag)
        except PermissionError:
            later.append((fd, flag))  # one that belongs to the user namespace: it has the right
    if user >= 0:
        join(user, ns.CLONE_NEWUSER)
    for fd, flag in later:
        join(fd, flag)
    if spaces.new & ns.CLONE_NEWTIME:
        ns.unshare(ns.CLONE_NEWTIME)
        _set_time_offsets(spaces.time_offsets)

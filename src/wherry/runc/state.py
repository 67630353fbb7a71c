"""What is kept on disk of a container: a directory of its name, with one document.

It is not right below the root, which other runtimes may have as well (containerd's shims give all of them the same):
`runc delete` removes whatever is there by the name that it is told.
"""

from __future__ import annotations

import os
import stat

from wherry.errors import NotFound, Unknown
from wherry.linux import tree
from wherry.oci import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from wherry.runc.spec import Spec

    #: A file's inode and when it was written, in nanoseconds.
    Stamp = tuple[int, int]

#: What is ours below the root.
_OURS = ".wherry"
_CONTAINERS = "containers"

_FILE = "wherry.json"
_FORMAT = 1

#: What is kept beside the specification.
_FIELDS = (
    "bundle",
    "cgroup",
    "created",
    "id",
    "pid",
    "rootless",
    "session_keyring",
    "start_time",
    "systemd_unit",
    "user",
)


class State:
    """The document. It is first written before anything is made that it tells of, and again when there is a process."""

    __slots__ = (
        "_spec_text",
        "bundle",
        "cgroup",
        "created",
        "id",
        "pid",
        "rootless",
        "session_keyring",
        "spec",
        "stamp",
        "start_time",
        "systemd_unit",
        "user",
    )

    def __init__(self, id: str, bundle: str, spec: Spec) -> None:
        self.id = id
        self.bundle = bundle
        self.spec = spec
        #: Written twice, and by far the longest part.
        self._spec_text = ""
        #: 0 before there is a process.
        self.pid = 0
        #: In clock ticks since boot: with the pid it names the process for ever.
        self.start_time = 0
        #: RFC 3339.
        self.created = ""
        #: Directories by controller, as `Cgroup.paths`.
        self.cgroup: dict[str, str] = {}
        self.systemd_unit = ""
        self.rootless = False
        #: The name of its keyring, which other processes of it join; "" for none.
        self.session_keyring = ""
        #: Whose it is.
        self.user = os.geteuid()
        #: Which file it was read from, or written to: another one has taken its place when its stamp is another.
        self.stamp: Stamp = (0, 0)

    def write(self, directory: str) -> None:
        """Write it, whole or not at all. OSError."""
        self._spec_text = self._spec_text or json_text.dumps(self.spec)
        head = json_text.dumps({"format": _FORMAT, **{name: getattr(self, name) for name in _FIELDS}})
        path = os.path.join(directory, _FILE)
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(f'{head[:-1]}, "spec": {self._spec_text}}}'.encode())
            while rest:
                rest = rest[os.write(fd, rest) :]
            self.stamp = _stamp(os.fstat(fd))
        finally:
            os.close(fd)
        os.rename(path + ".new", path)

    def is_current(self, directory: str) -> bool:
        """Tell whether the document on disk is still this one."""
        try:
            return _stamp(os.stat(os.path.join(directory, _FILE))) == self.stamp
        except FileNotFoundError:
            return False

    def spec_changed(self) -> None:
        """Have the specification written anew the next time."""
        self._spec_text = ""


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_ino, found.st_mtime_ns


def read_state(root: str, id: str) -> State:
    """Read a container's document. NotFound("container does not exist") without one, Unknown for a damaged one."""
    path = os.path.join(directory_of(root, id), _FILE)
    try:
        with open(path, "rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            document = json_text.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        raise does_not_exist() from None
    except ValueError as error:
        raise Unknown(f"{path} is damaged: {error}") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise Unknown(f"{path} is of another version of wherry: delete the container with that one")
    state = State(document["id"], document["bundle"], document["spec"])
    for name in _FIELDS:
        setattr(state, name, document[name])
    state.stamp = stamp
    return state


def directory_of(root: str, id: str) -> str:
    """Return where a container's state is, whether it exists or not."""
    return os.path.join(root, _OURS, _CONTAINERS, id)


def does_not_exist() -> NotFound:
    """Return runc's error, word for word: clients look for it."""
    error = NotFound()
    error.message = "container does not exist"
    error.args = (error.message,)
    return error


def ids(root: str) -> list[str]:
    """Return the names of the containers that there are."""
    containers = os.path.join(root, _OURS, _CONTAINERS)
    try:
        with os.scandir(containers) as entries:
            found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return sorted(name for name in found if os.path.exists(os.path.join(containers, name, _FILE)))


def make_directory(root: str, id: str) -> str:
    """Make a container's directory, and those that it is in, private to their owner; return it.

    FileExistsError if there is one, Unknown if there can be none.
    """
    path = directory_of(root, id)
    while True:
        _make_root(root)
        try:
            os.mkdir(path, 0o711)
        except FileNotFoundError:
            continue  # with the last container before this one the directories went away just now
        return path


def _make_root(root: str) -> None:
    containers = os.path.join(root, _OURS, _CONTAINERS)
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        if not stat.S_ISDIR(os.stat(root).st_mode):
            raise NotADirectoryError(20, "not a directory")
        try:
            os.makedirs(containers, mode=0o700, exist_ok=True)
        except FileNotFoundError:
            return  # as below
    except OSError as error:
        raise Unknown(f"mkdir {root}: {(error.strerror or '').lower()}") from None


def remove_directory(path: str) -> None:
    """Remove a container's directory, and what it is in if that is empty then, but for the root. OSError."""
    tree.remove(path)
    containers = os.path.dirname(path)
    for empty in (containers, os.path.dirname(containers)):
        try:
            os.rmdir(empty)
        except OSError:
            return  # there are others


def seccomp_cache(root: str) -> str:
    """Return where compiled seccomp profiles are kept, for the containers of a root directory."""
    return os.path.join(root, _OURS, "seccomp")


def hook_state(state: State, status: str) -> dict[str, Any]:
    """Return the state document of the specification, runtime.md, "State", for hooks and seccomp agents."""
    spec: Mapping[str, Any] = state.spec
    return {
        "ociVersion": spec.get("ociVersion") or "",
        "id": state.id,
        "status": status,
        **({"pid": state.pid} if status != "stopped" else {}),
        "bundle": state.bundle,
        **({"annotations": spec["annotations"]} if spec.get("annotations") else {}),
    }

"""Id mappings of user namespaces: written for a process, and as a namespace that only maps. user_namespaces(7)."""

from __future__ import annotations

import os

from wherry.errors import Unknown
from wherry.linux.namespaces import CLONE_NEWUSER, clone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Mappings = Sequence[Mapping[str, int]]


class IdMaps:
    """The mappings of users and of groups: `containerID` `hostID` `size` a line, as /proc/[pid]/uid_map has them."""

    __slots__ = ("gids", "uids")

    def __init__(self, uids: Mappings, gids: Mappings) -> None:
        self.uids = [(each["containerID"], each["hostID"], each["size"]) for each in uids]
        self.gids = [(each["containerID"], each["hostID"], each["size"]) for each in gids]

    @classmethod
    def of(cls, uids: Mappings | None, gids: Mappings | None) -> IdMaps | None:
        """Return the maps, None if there are none."""
        return cls(uids or (), gids or ()) if uids or gids else None

    def has_user(self, id: int) -> bool:
        """Whether an id of the namespace's is mapped."""
        return any(inside <= id < inside + size for inside, _outside, size in self.uids)

    def has_group(self, id: int) -> bool:
        return any(inside <= id < inside + size for inside, _outside, size in self.gids)

    def write(self, pid: int) -> None:
        """Give a process's new user namespace these maps.

        Without privileges, a map of one's own id is written, a longer one set by newuidmap(1) and newgidmap(1).
        Unknown, saying which file.
        """
        privileged = os.geteuid() == 0
        if not privileged and _is_own(self.gids, os.getegid()):
            # user_namespaces(7): without it an unprivileged process could drop a group that denies it something.
            _write(f"/proc/{pid}/setgroups", "deny")
        for name, own, program, ids in (
            ("uid_map", os.geteuid(), "newuidmap", self.uids),
            ("gid_map", os.getegid(), "newgidmap", self.gids),
        ):
            if not ids:
                continue
            if privileged or _is_own(ids, own):
                _write(f"/proc/{pid}/{name}", "".join(f"{a} {b} {c}\n" for a, b, c in ids))
            else:
                _run([program, str(pid), *(str(number) for entry in ids for number in entry)])

    def open_namespace(self) -> int:
        """Return a descriptor of a new user namespace with these maps, for idmapped mounts. OSError, Unknown."""
        reading, writing = os.pipe()
        pid, pidfd = clone(CLONE_NEWUSER)
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        try:
            self.write(pid)
            return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writing)
            os.close(pidfd)
            os.waitpid(pid, 0)


def _is_own(ids: list[tuple[int, int, int]], own: int) -> bool:
    return len(ids) == 1 and ids[0][1:] == (own, 1)


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise Unknown(f"failed to write {path}: {(error.strerror or '').lower()}") from None


def _run(command: list[str]) -> None:
    output = os.memfd_create("output")
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        if os.waitpid(pid, 0)[1]:
            printed = os.pread(output, 4096, 0).decode(errors="replace").strip()
            raise Unknown(f"{' '.join(command)} failed: {printed}")
    except FileNotFoundError:
        reason = f"{command[0]} is not installed (Debian: uidmap); without it only one's own id can be mapped"
        raise Unknown(reason) from None
    finally:
        os.close(output)

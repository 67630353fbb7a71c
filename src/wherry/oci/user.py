"""Users and groups as a container's own files name them: passwd(5) and group(5), read by our own parser.

Name services of the host know nothing of a container, and must not be asked about it.
"""

from __future__ import annotations

from wherry.errors import InvalidArgument, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Larger files are not what they should be.
MAX_FILE = 1 << 20

_MAX_ID = (1 << 32) - 2
_DIGITS = 11


class User:
    """Who a process is."""

    __slots__ = ("additional_gids", "gid", "uid")

    def __init__(self, uid: int, gid: int, additional_gids: list[int]) -> None:
        self.uid = uid
        self.gid = gid
        self.additional_gids = additional_gids

    def to_json(self) -> dict[str, object]:
        """Return the runtime specification's process.user."""
        user: dict[str, object] = {"uid": self.uid, "gid": self.gid}
        if self.additional_gids:
            user["additionalGids"] = self.additional_gids
        return user


def resolve(text: str, passwd: bytes, group: bytes) -> User:
    """Return who ``user``, ``uid``, ``user:group``, ``uid:gid`` or a mix of them is; "" is root.

    A number needs no entry, then the group is 0; a name does: NotFound without one. Supplementary groups are those
    whose members name the user. InvalidArgument for a text of no such form.
    """
    name, colon, group_name = (text or "0").partition(":")
    if not name or (colon and not group_name) or ":" in group_name:
        raise InvalidArgument(f'invalid USER value "{text}": it is USER or USER:GROUP')
    number = _number(name)
    entry = None
    for candidate in _entries(passwd, 4):
        if candidate[0] == name or (number is not None and candidate[2] == str(number)):
            entry = candidate
            break
    if entry is None and number is None:
        raise NotFound(f'user "{name}" in the image\'s /etc/passwd')
    uid = int(entry[2]) if entry is not None else _id(number, text)
    gid = int(entry[3]) if entry is not None else 0
    if group_name:
        gid = _gid(group_name, group)
    login = entry[0] if entry is not None else ""
    return User(uid, gid, _additional(gid, login, group))


def home_directory(passwd: bytes, uid: int) -> str:
    """Return the home of the first entry of a user id, "/" if there is none or it says none."""
    for entry in _entries(passwd, 4):
        if int(entry[2]) == uid:
            home = entry[5] if len(entry) > 5 else ""
            return home if home and "\0" not in home else "/"
    return "/"


def _additional(gid: int, login: str, group: bytes) -> list[int]:
    """Return the groups of a user: its own first, as containerd has it, then those that list it."""
    if not login:
        return [gid] if gid else []
    found = {int(entry[2]) for entry in _entries(group, 3) if len(entry) > 3 and login in entry[3].split(",")}
    return [gid, *sorted(found - {gid})]


def _gid(name: str, group: bytes) -> int:
    number = _number(name)
    for entry in _entries(group, 3):
        if entry[0] == name or (number is not None and entry[2] == str(number)):
            return int(entry[2])
    if number is None:
        raise NotFound(f'group "{name}" in the image\'s /etc/group')
    return _id(number, name)


def _number(text: str) -> int | None:
    # Cut where it is out of range in any case: of thousands of digits int makes no number but an error.
    return int(text.lstrip("0")[:_DIGITS] or "0") if text.isascii() and text.isdigit() else None


def _is_id(text: str) -> bool:
    number = _number(text)
    return number is not None and number <= _MAX_ID and len(text) <= _DIGITS


def _id(number: int | None, text: str) -> int:
    if number is None or number > _MAX_ID:
        raise InvalidArgument(f'invalid USER value "{text}": ids are at most {_MAX_ID}')
    return number


def _entries(file: bytes, fields: int) -> Iterator[list[str]]:
    # As file names are: what is no UTF-8 comes out again as the same bytes.
    for line in file.decode(errors="surrogateescape").splitlines():
        entry = line.strip().split(":")
        if len(entry) < fields or entry[0].startswith("#") or not _is_id(entry[2]):
            continue
        if fields == 4 and not _is_id(entry[3]):
            continue
        yield entry

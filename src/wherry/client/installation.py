"""What wherry puts outside of its own directory: links to the shims, where daemons look for them, and a systemd unit.

Setting up twice changes nothing; what somebody else put in a place is neither overwritten nor removed.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from contextlib import ExitStack

from wherry.errors import AlreadyExists, NotFound
from wherry.oci import digest as digests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SHIMS = ("containerd-shim-wherry-v2", "wherry-shim")
LINKS = "/usr/local/bin"
UNITS = "/etc/systemd/system"
UNIT = "wherryd.service"

_PLACE = "@WHERRYD@"
#: Before the digest of the rest of the unit.
_SIGNATURE = "# Written by `wherry setup`, removed by `wherry setup --remove`. "


class Installation:
    """The links and the unit below a root directory, "/" or that of an image being built."""

    def __init__(self, root: str = "/", commands: str = "") -> None:
        """`commands` is the directory of wherry's installed commands: this Python's, if not given.

        NotFound if they are not there.
        """
        self._root = os.path.abspath(root)
        self._commands = os.path.abspath(commands) if commands else _find_commands()
        self._wherryd = os.path.join(self._commands, "wherryd")
        for name in (*SHIMS, "wherryd"):
            if not os.path.exists(os.path.join(self._commands, name)):
                raise NotFound(f"wherry's command {name} in {self._commands}")

    def install(self) -> list[str]:
        """Make the links and the unit that are not there; return a line about each.

        AlreadyExists if a place is taken by something else, and OSError; then nothing has been changed.
        """
        lines = []
        with ExitStack() as undo:
            for place, target in self._links():
                lines.append(_link(place, target, undo))
            lines.append(self._write_unit(undo))
            undo.pop_all()
        return lines

    def remove(self) -> list[str]:
        """Remove what `install` made; return a line about each. What is not ours, or is gone, is left."""
        lines = []
        for place, target in self._links():
            if _is_ours(place, target):
                os.unlink(place)
                lines.append(f"removed {place}")
            elif os.path.lexists(place):
                lines.append(f"left {place}: it is not this wherry's")
        unit = self._below(UNITS, UNIT)
        present = _read(unit)
        if present is not None and _is_unit(present):
            os.unlink(unit)
            lines.append(f"removed {unit}")
        elif present is not None:
            lines.append(f"left {unit}: it was not written by wherry setup, or was changed since")
        return lines

    def _links(self) -> Iterator[tuple[str, str]]:
        for name in SHIMS:
            place, target = self._below(LINKS, name), os.path.join(self._commands, name)
            if os.path.abspath(place) != target:  # installed there by pip itself
                yield place, target

    def _below(self, directory: str, name: str) -> str:
        return os.path.join(self._root, directory.lstrip("/"), name)

    def _write_unit(self, undo: ExitStack) -> str:
        place = self._below(UNITS, UNIT)
        if not os.path.isdir(os.path.dirname(place)):
            return f"no unit: there is no {os.path.dirname(place)}"
        text = _unit(_quoted(self._wherryd))
        present = _read(place)
        if present == text:
            return f"unchanged {place}"
        if present is not None and not _is_unit(present):
            raise AlreadyExists(f"{place}, not written by wherry setup, or changed since: move it away")
        partial = place + ".partial"
        undo.callback(_unlink, partial)
        with open(partial, "w") as file:
            file.write(text)
        os.replace(partial, place)
        undo.callback(_unlink, place)
        return f"wrote {place}"


def _find_commands() -> str:
    """Return where pip put wherry's commands: beside a virtual environment's Python, or where the system's go."""
    candidates = [os.path.dirname(sys.executable), sysconfig.get_path("scripts"), os.path.dirname(sys.argv[0])]
    for candidate in candidates:
        if os.path.exists(os.path.join(candidate, "wherryd")):
            return os.path.abspath(candidate)
    raise NotFound(f"wherry's commands (in {', '.join(candidates)})")


def _link(place: str, target: str, undo: ExitStack) -> str:
    if _is_ours(place, target):
        if os.readlink(place) == target:
            return f"unchanged {place}"
        os.unlink(place)  # of a wherry that is gone
    elif os.path.lexists(place):
        taken = f"a link to {os.readlink(place)}" if os.path.islink(place) else "not a link"
        raise AlreadyExists(
            f"{place}, {taken}: move it away, or run `wherry setup --remove` of the wherry that made it"
        )
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.symlink(target, place)
    undo.callback(_unlink, place)
    return f"linked {place} to {target}"


def _is_ours(place: str, target: str) -> bool:
    """Tell whether a place is a link to this wherry's command, or to one of a wherry that is gone."""
    if not os.path.islink(place):
        return False
    present = os.readlink(place)
    return present == target or (os.path.basename(present) == os.path.basename(target) and not os.path.exists(place))


def _unit(command: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), UNIT)) as file:
        return _signed(file.read().replace(_PLACE, command))


def _signed(text: str) -> str:
    return f"{_SIGNATURE}{digests.of(text.encode()).removeprefix('sha256:')}\n{text}"


def _is_unit(text: str) -> bool:
    """Tell whether a unit is as some wherry's `install` wrote it, and nobody has changed it since."""
    first, _, rest = text.partition("\n")
    return first.startswith(_SIGNATURE) and _signed(rest) == text


def _quoted(path: str) -> str:
    """Return a path as a word of ExecStart (systemd.service(5), "Command lines"; systemd.unit(5), "Specifiers")."""
    path = path.replace("%", "%%")
    if all(character.isalnum() or character in "/._-+%" for character in path):
        return path
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # it has its place, or was never made

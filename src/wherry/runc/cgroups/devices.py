"""Which devices a container may use: the rules of a specification, as the kernel's devices controller has them.

OCI runtime specification, config-linux.md, "Allowed Device list"; Documentation/admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

from wherry.errors import Unknown
from wherry.runc.cgroups import control_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Every number.
ANY = -1

#: Type (c, b), major and minor.
Device = tuple[str, int, int]

_ORDER = "rwm"
_ALL = frozenset(_ORDER)

#: What every container may use, whatever its specification says: it may make any node, and use the default ones, the
#: terminals, and tun.
_DEFAULT: tuple[tuple[Device, str], ...] = (
    (("c", ANY, ANY), "m"),
    (("b", ANY, ANY), "m"),
    (("c", 1, 3), "rwm"),
    (("c", 1, 8), "rwm"),
    (("c", 1, 7), "rwm"),
    (("c", 5, 0), "rwm"),
    (("c", 1, 5), "rwm"),
    (("c", 1, 9), "rwm"),
    (("c", 136, ANY), "rwm"),
    (("c", 5, 2), "rwm"),
    (("c", 10, 200), "rwm"),
)


class DevicePolicy:
    """What is allowed: everything or nothing, but for some devices, and of them some of reading, writing, making."""

    __slots__ = ("allow", "exceptions")

    def __init__(self, *, allow: bool = False) -> None:
        self.allow = allow
        self.exceptions: dict[Device, frozenset[str]] = {}

    def add(self, device: Device, access: frozenset[str], *, allow: bool) -> None:
        """Add a rule, which goes before those that were added earlier. Unknown if the kernel can't have it."""
        here = self.exceptions.get(device, frozenset())
        if allow is not self.allow:
            self.exceptions[device] = here | access
            return
        kind, major, minor = device
        for wider in ((kind, ANY, minor), (kind, major, ANY), (kind, ANY, ANY)):
            # The kernel takes an exception back only as a whole; it says nothing and leaves the wider one.
            if wider != device and self.exceptions.get(wider, frozenset()) & access:
                raise Unknown(
                    f"unable to remove '{'deny' if allow else 'allow'}' exception: "
                    f"requested rule [{_in_go(device, access)}] not supported by devices cgroupv1 "
                    f"(cannot punch hole in existing wildcard rule [{_in_go(wider, self.exceptions[wider])}])"
                )
        if here - access:
            self.exceptions[device] = here - access
        else:
            self.exceptions.pop(device, None)

    def lines_from(self, other: DevicePolicy) -> list[tuple[str, str]]:
        """Return what leads from another policy to this one, and nothing more: the file and the line for it.

        A container that runs under the other one keeps all the time what both allow, unless they differ in what goes
        for all devices.
        """
        file = {True: "devices.allow", False: "devices.deny"}
        old = other.exceptions
        lines = []
        if self.allow is not other.allow:
            old = {}
            lines.append((file[self.allow], "a"))
        for device, access in sorted(self.exceptions.items(), key=_order):
            if gained := access - old.get(device, frozenset()):
                lines.append((file[not self.allow], line(device, gained)))
        for device, access in sorted(old.items(), key=_order):
            if lost := access - self.exceptions.get(device, frozenset()):
                lines.append((file[self.allow], line(device, lost)))
        return lines


def _order(item: tuple[Device, frozenset[str]]) -> tuple[int, int, str]:
    """The order that runc has them in."""
    (kind, major, minor), _access = item
    return major, minor, kind


def _in_go(device: Device, access: frozenset[str]) -> str:
    """A rule as runc prints it, whose type is a number to it."""
    kind, major, minor = device
    return f"{{{ord(kind)} {major} {minor}}} {_letters(access)}"


def _letters(access: frozenset[str]) -> str:
    return "".join(letter for letter in _ORDER if letter in access)


def line(device: Device, access: frozenset[str]) -> str:
    """Return a rule as devices.allow and devices.deny take it."""
    kind, major, minor = device
    numbers = f"{'*' if major == ANY else major}:{'*' if minor == ANY else minor}"
    return f"{kind} {numbers} {_letters(access)}"


def policy(rules: Sequence[Mapping[str, Any]]) -> DevicePolicy:
    """Return the policy of a specification's `resources.devices`, with what every container has. Unknown."""
    wanted = DevicePolicy()
    for rule in rules:
        kind = rule.get("type") or "a"
        if kind not in ("a", "b", "c"):
            raise Unknown(f'invalid cgroup device type "{kind}"')
        allow = bool(rule.get("allow"))
        if kind == "a":
            wanted = DevicePolicy(allow=allow)
            continue
        access = frozenset(rule.get("access") or "")
        if access - _ALL:
            raise Unknown(f'invalid access "{rule["access"]}" of a device: it is made of r, w and m')
        device = kind, _device_number(rule.get("major")), _device_number(rule.get("minor"))
        if access:
            wanted.add(device, access, allow=allow)
    for device, letters in _DEFAULT:
        wanted.add(device, frozenset(letters), allow=True)
    return wanted


def _device_number(value: int | None) -> int:
    return ANY if value is None or value < 0 else value


def parse_list(text: str) -> DevicePolicy:
    """Return the policy that a devices.list tells of. One that allows all but some does not tell which."""
    found = DevicePolicy()
    for entry in text.splitlines():
        kind, numbers, access = entry.split()
        if kind == "a":
            return DevicePolicy(allow=True)
        major, _, minor = numbers.partition(":")
        found.add((kind, _parsed(major), _parsed(minor)), frozenset(access), allow=True)
    return found


def _parsed(number: str) -> int:
    return ANY if number == "*" else int(number)


def set_devices(directory: str, wanted: DevicePolicy) -> None:
    """Make a cgroup of the devices controller follow a policy. OSError; Unknown if the kernel has it otherwise then."""
    present = parse_list(control_files.read(directory, "devices.list"))
    lines = wanted.lines_from(present)
    if not lines:
        return
    start = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or lines[end][0] != lines[start][0]:
            control_files.write_lines(directory, lines[start][0], [text for _file, text in lines[start:end]])
            start = end
    result = parse_list(control_files.read(directory, "devices.list"))
    if result.allow is not wanted.allow:
        raise Unknown("resulting devices cgroup doesn't match target mode")
    if not wanted.allow and result.exceptions != wanted.exceptions:
        raise Unknown("resulting devices cgroup doesn't precisely match target")

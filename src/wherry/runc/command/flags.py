"""Flags as runc's users and callers write them: one dash or two, the value behind a blank or an equals sign.

That is Go's flag package, with the error texts of it. argparse would take longer to import than a container to start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: What a flag's value is.
SWITCH, TEXT, NUMBER, TEXTS, NUMBERS, DURATION = "switch", "text", "number", "texts", "numbers", "duration"

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")

#: Seconds.
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class UsageError(Exception):
    """A command line that cannot be understood: the caller is shown how it is meant."""


class Flag:
    """One flag: its long name and its short one, what it is for, and what its value is."""

    __slots__ = ("default", "hidden", "kind", "name", "purpose", "short")

    def __init__(
        self, name: str, purpose: str, kind: str = TEXT, *, short: str = "", default: str = "", hidden: bool = False
    ) -> None:
        self.name = name
        self.short = short
        self.purpose = purpose
        self.kind = kind
        #: As it would be written.
        self.default = default
        #: Whether help leaves it out.
        self.hidden = hidden


HELP = Flag("help", "show help", SWITCH, short="h")


class Values:
    """What the flags of a command line say. A flag that is not there has its default."""

    def __init__(self, flags: Sequence[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._given: dict[str, list[str]] = {}

    def add(self, flag: Flag, value: str) -> None:
        self._given.setdefault(flag.name, []).append(value)

    def has(self, name: str) -> bool:
        """Tell whether a flag is on the command line."""
        return name in self._given

    def text(self, name: str) -> str:
        """Return the value of a TEXT flag; the last one counts."""
        given = self._given.get(name)
        return given[-1] if given else self._flags[name].default

    def switch(self, name: str) -> bool:
        return self.text(name) in _TRUE

    def number(self, name: str) -> int:
        return int(self.text(name) or "0", 0)

    def texts(self, name: str) -> list[str]:
        """Return all values of a TEXTS flag."""
        return list(self._given.get(name, ()))

    def numbers(self, name: str) -> list[int]:
        return [int(value) for value in self._given.get(name, ())]

    def seconds(self, name: str) -> float:
        """Return the value of a DURATION flag in seconds."""
        return parse_duration(self.text(name))


def parse(flags: Sequence[Flag], words: Sequence[str], *, anywhere: bool = False) -> tuple[Values, list[str]]:
    """Return what the flags say and the words that are left, from the first that is none of them or follows `--`.

    With `anywhere`, flags may as well stand behind other words, as with runc's commands that hand no words on to
    another program. UsageError.
    """
    by_name = {name: flag for flag in (*flags, HELP) for name in (flag.name, flag.short) if name}
    values = Values((*flags, HELP))
    rest: list[str] = []
    queue = iter(words)
    for word in queue:
        if word == "--" and not rest:
            return values, [*rest, *queue]
        if word == "--" or (rest and not anywhere):
            return values, [*rest, word, *queue]
        if len(word) < 2 or not word.startswith("-"):
            rest.append(word)
            continue
        name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        flag = by_name.get(name)
        if flag is None and rest:
            rest.append(word)
        elif not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        elif flag is None:
            raise UsageError(f"flag provided but not defined: -{name}")
        else:
            values.add(flag, _value(flag, name, value if equals else None, queue))
    return values, rest


def _value(flag: Flag, name: str, value: str | None, queue: Iterator[str]) -> str:
    if flag.kind == SWITCH:
        value = "true" if value is None else value
        if value not in _TRUE + _FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
        return value
    if value is None:
        value = next(queue, None)
        if value is None:
            raise UsageError(f"flag needs an argument: -{name}")
    try:
        if flag.kind == NUMBER:
            int(value, 0)
        elif flag.kind == NUMBERS:
            int(value)
        elif flag.kind == DURATION:
            parse_duration(value)
    except ValueError:
        reason = f'strconv.ParseInt: parsing "{value}": invalid syntax' if flag.kind == NUMBERS else "parse error"
        raise UsageError(f'invalid value "{value}" for flag -{name}: {reason}') from None
    return value


def parse_duration(text: str) -> float:
    """Return a duration in Go's form (`5s`, `1m30s`, `1.5h`) in seconds. ValueError."""
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise ValueError(text)
    total = 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        letters = len(rest[digits:]) - len(rest[digits:].lstrip("nuµμmsh"))
        unit = rest[digits : digits + letters]
        if unit not in _UNITS:
            raise ValueError(text)
        total += float(rest[:digits]) * _UNITS[unit]
        rest = rest[digits + letters :]
    return sign * total

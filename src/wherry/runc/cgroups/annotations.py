"""Properties of a systemd unit that a container's annotations ask for: runc's docs/systemd.md, "Changing systemd unit
properties". Their values are GVariant text.

GLib, "GVariant Text Format".
"""

from __future__ import annotations

from wherry.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from wherry.runc.cgroups.properties import Property

_PREFIX = "org.systemd.property."

#: The types of integers by their keyword: D-Bus's letter, and what they go from and to.
_INTEGERS = {
    "byte": ("y", 0, (1 << 8) - 1),
    "int16": ("n", -(1 << 15), (1 << 15) - 1),
    "uint16": ("q", 0, (1 << 16) - 1),
    "int32": ("i", -(1 << 31), (1 << 31) - 1),
    "handle": ("h", -(1 << 31), (1 << 31) - 1),
    "uint32": ("u", 0, (1 << 32) - 1),
    "int64": ("x", -(1 << 63), (1 << 63) - 1),
    "uint64": ("t", 0, (1 << 64) - 1),
}
_RANGES = {letter: (least, most) for letter, least, most in _INTEGERS.values()}
_OTHERS = {"boolean": "b", "double": "d", "string": "s", "objectpath": "o", "signature": "g"}
_LETTERS = {**{word: letter for word, (letter, _least, _most) in _INTEGERS.items()}, **_OTHERS}

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_UNICODE = {"u": 4, "U": 8}
_SPACE = " \t\n\r"
#: What ends a word, besides white space.
_MARKS = "[](){},:'\"@"

_MICROSECONDS = 1_000_000
_DEEPEST = 16


def annotation_properties(annotations: Mapping[str, str]) -> list[Property]:
    """Return the properties that `org.systemd.property.NAME` annotations stand for. InvalidArgument, naming one.

    A NAME that ends in "Sec" is in seconds, and systemd's own, which ends in "USec", in microseconds.
    """
    found: list[Property] = []
    for key, text in sorted(annotations.items()):
        if not key.startswith(_PREFIX):
            continue
        name = key.removeprefix(_PREFIX)
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise InvalidArgument(f"annotation {key}: no name of a property")
        try:
            value = parse_variant(text)
            if name.endswith("Sec") and name[-4:-3].islower():
                name, value = f"{name.removesuffix('Sec')}USec", _microseconds(value)
        except ValueError as error:
            raise InvalidArgument(f"annotation {key}={text}: {error}") from None
        found.append((name, value))
    return found


def _microseconds(value: tuple[str, Any]) -> tuple[str, Any]:
    signature, number = value
    if signature not in _RANGES and signature != "d":
        raise ValueError("not a number of seconds")
    microseconds = int(number * _MICROSECONDS)
    least, most = _RANGES["t"]
    if not least <= microseconds <= most:
        raise ValueError(f"{number} seconds are out of range")
    return "t", microseconds


def parse_variant(text: str) -> tuple[str, Any]:
    """Return the D-Bus signature and the value of a GVariant text: a basic type, or arrays of one. ValueError."""
    reader = _Reader(text)
    value = reader.value("", 0)
    if rest := reader.rest():
        raise ValueError(f"what is {rest!r} at its end?")
    return value


class _Reader:
    """What of a text is still to be read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rest(self) -> str:
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        return self._text[self._at :]

    def value(self, wanted: str, depth: int) -> tuple[str, Any]:
        """Read a value of a type, or with "" of the one that it has by itself."""
        rest = self.rest()
        if depth > _DEEPEST:
            raise ValueError("too deep")
        if rest.startswith("["):
            return self._array(wanted, depth)
        if rest[:1] in ("'", '"'):
            return self._check(wanted, "s", "og"), self._string()
        if rest.startswith("@"):
            self._at += 1
            signature = self._word()
            if signature.lstrip("a") not in set(_LETTERS.values()):
                raise ValueError(f"no basic type, nor arrays of one: {signature!r}")
            return self.value(self._check(wanted, signature), depth + 1)
        word = self._word()
        if word in _LETTERS:
            return self.value(self._check(wanted, _LETTERS[word]), depth + 1)
        if word in ("true", "false"):
            return self._check(wanted, "b"), word == "true"
        return self._number(word, wanted)

    def _check(self, wanted: str, found: str, others: str = "") -> str:
        if wanted and wanted != found and wanted not in others:
            raise ValueError(f"of type {found}, not {wanted}")
        return wanted or found

    def _word(self) -> str:
        rest = self.rest()
        length = next((at for at, letter in enumerate(rest) if letter in _SPACE or letter in _MARKS), len(rest))
        if not length:
            raise ValueError("no value" if not rest else f"what is {rest!r}?")
        self._at += length
        return rest[:length]

    def _number(self, word: str, wanted: str) -> tuple[str, Any]:
        try:
            number = int(word, 8 if word.lstrip("+-").startswith("0") and word.lstrip("+-").isdigit() else 0)
        except ValueError:
            if "_" in word or wanted not in ("", "d"):
                raise ValueError(f"what is {word!r}?") from None
            return "d", float(word)
        if wanted == "d":
            return "d", float(number)
        signature = wanted or "i"
        if signature not in _RANGES:
            raise ValueError(f"a number, not of type {wanted}")
        least, most = _RANGES[signature]
        if "_" in word or not least <= number <= most:
            raise ValueError(f"{word} is no number of type {signature}")
        return signature, number

    def _string(self) -> str:
        quote = self.rest()[0]
        self._at += 1
        found = ""
        while True:
            letter = self._letter()
            if letter == quote:
                return found
            found += self._escaped() if letter == "\\" else letter

    def _letter(self) -> str:
        if self._at >= len(self._text):
            raise ValueError("a string without an end")
        self._at += 1
        return self._text[self._at - 1]

    def _escaped(self) -> str:
        letter = self._letter()
        if letter in _UNICODE:
            number = "".join(self._letter() for _ in range(_UNICODE[letter]))
            try:
                return chr(int(number, 16))
            except (ValueError, OverflowError):
                raise ValueError(f"no character: {number!r}") from None
        return _ESCAPES.get(letter, letter)

    def _array(self, wanted: str, depth: int) -> tuple[str, Any]:
        self._at += 1
        if wanted and not wanted.startswith("a"):
            raise ValueError(f"an array, not of type {wanted}")
        inner = wanted[1:]
        found: list[Any] = []
        while not self.rest().startswith("]"):
            if found:
                if not self.rest().startswith(","):
                    raise ValueError("an array without an end")
                self._at += 1
            inner, value = self.value(inner, depth + 1)
            found.append(value)
        self._at += 1
        if not inner:
            raise ValueError("an empty array has its type before it: @as []")
        return f"a{inner}", bytes(found) if inner == "y" else found

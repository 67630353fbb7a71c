"""containerd's filter language: ``labels."a/b"==c,name~=^re`` — commas are AND, a list is OR.

    filters  := filter ("," filter)*
    filter   := fieldpath (operator value)?
    operator := "==" | "!=" | "~="
    fieldpath := field ("." field)*
    field    := quoted | [A-Za-z_] [A-Za-z0-9_]*
    value    := quoted | what runs up to a comma or a blank

A path alone asks for presence. Quoted strings are Go's; behind ``~=`` also ``/re/`` and ``|re|``,
so that no other value may begin with these. Blanks may stand before any token. Regular expressions are unanchored,
and Python's, which know what RE2 knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from wherry.errors import InvalidArgument

#: What a filter asks an object: the text of a field by its path, and whether the field is there.
Adaptor = Callable[[list[str]], tuple[str, bool]]
Filter = Callable[[Adaptor], bool]

_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r"[=!~]+")
_BLANKS = re.compile(r"[ \t\n\r]*")
_VALUE = re.compile(r"[^\s,\"]+")
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


def parse_all(filters: Iterable[str]) -> Filter:
    """Return the filter that matches what any of the given ones does; none, or an empty one, matches everything.

    InvalidArgument for a syntax error.
    """
    parsed = [parse(text) for text in filters]
    if not parsed:
        return lambda _adaptor: True
    if len(parsed) == 1:
        return parsed[0]
    return lambda adaptor: any(each(adaptor) for each in parsed)


def parse(text: str) -> Filter:
    """Return one filter. InvalidArgument for a syntax error."""
    if not text:
        return lambda _adaptor: True
    parser = _Parser(text)
    selectors = [parser.selector()]
    while parser.take(","):
        selectors.append(parser.selector())
    parser.end()
    if len(selectors) == 1:
        return selectors[0]
    return lambda adaptor: all(selector(adaptor) for selector in selectors)


def labels_field(labels: Mapping[str, str], path: list[str]) -> tuple[str, bool]:
    """Answer an adaptor's question about a label: everything behind ``labels.`` is its name."""
    if len(path) < 2:
        return "", False
    value = labels.get(".".join(path[1:]))
    return (value, True) if value is not None else ("", False)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def _fail(self, expected: str) -> InvalidArgument:
        at = self._position
        marked = self._text
        if at < len(self._text):
            marked = f"{self._text[:at]} >|{self._text[at]}|< {self._text[at + 1 :]}"
        return InvalidArgument(f"filters: parse error: [{marked}]: {expected}")

    def _skip_blanks(self) -> None:
        match = _BLANKS.match(self._text, self._position)
        assert match is not None
        self._position = match.end()

    def _peek(self, length: int = 1) -> str:
        return self._text[self._position : self._position + length]

    def take(self, token: str) -> bool:
        self._skip_blanks()
        if self._peek(len(token)) == token:
            self._position += len(token)
            return True
        return False

    def end(self) -> None:
        if self._position < len(self._text):
            raise self._fail("unexpected input: expected separator `,`")

    def selector(self) -> Filter:
        path = [self._field()]
        while self._peek() == ".":
            self._position += 1
            path.append(self._field())
        self._skip_blanks()
        if self._peek() in ("", ","):
            return lambda adaptor: adaptor(path)[1]
        match = _OPERATOR.match(self._text, self._position)
        if match is None:
            raise self._fail('expected an operator ("=="|"!="|"~=")')
        operator = match.group()
        if operator not in ("==", "!=", "~="):
            raise self._fail(f'unsupported operator "{operator}"')
        self._position = match.end()
        return _compare(path, operator, self._value(regex=operator == "~="))

    def _field(self) -> str:
        self._skip_blanks()
        if self._peek() == '"':
            return self._quoted()
        match = _FIELD.match(self._text, self._position)
        if match is None:
            raise self._fail("expected field or quoted")
        self._position = match.end()
        return match.group()

    def _value(self, regex: bool) -> str:
        self._skip_blanks()
        if self._peek() == '"':
            return self._quoted()
        if self._peek() in ("/", "|"):
            if not regex:
                raise self._fail("invalid quote encountered")
            return self._delimited(self._peek())
        match = _VALUE.match(self._text, self._position)
        if match is None:
            raise self._fail("expected value or quoted")
        self._position = match.end()
        return match.group()

    def _delimited(self, delimiter: str) -> str:
        start = self._position + 1
        at = start
        while at < len(self._text) and self._text[at] != delimiter:
            at += 2 if self._text[at] == "\\" else 1
        if at >= len(self._text):
            raise self._fail("unclosed quoted literal")
        self._position = at + 1
        return self._text[start:at].replace("\\" + delimiter, delimiter)

    def _quoted(self) -> str:
        """Read a string literal of Go's."""
        letters: list[str] = []
        at = self._position + 1
        while at < len(self._text) and self._text[at] != '"':
            if self._text[at] != "\\":
                letters.append(self._text[at])
                at += 1
                continue
            letter, at = self._escape(at + 1)
            letters.append(letter)
        if at >= len(self._text):
            raise self._fail("unclosed quoted literal")
        self._position = at + 1
        return "".join(letters)

    def _escape(self, at: int) -> tuple[str, int]:
        kind = self._text[at : at + 1]
        if kind in _ESCAPES:
            return _ESCAPES[kind], at + 1
        for prefix, length, base in (("x", 2, 16), ("u", 4, 16), ("U", 8, 16)):
            digits = self._text[at + 1 : at + 1 + length]
            if kind == prefix and len(digits) == length and all(digit in "0123456789abcdefABCDEF" for digit in digits):
                return chr(int(digits, base)), at + 1 + length
        digits = self._text[at : at + 3]
        if len(digits) == 3 and all(digit in "01234567" for digit in digits):
            return chr(int(digits, 8)), at + 3
        raise self._fail("invalid escape")


def _compare(path: list[str], operator: str, value: str) -> Filter:
    if operator == "==":
        return lambda adaptor: adaptor(path) == (value, True)
    if operator == "!=":
        return lambda adaptor: adaptor(path)[0] != value
    try:
        pattern = re.compile(value)
    except re.error:
        # As containerd, which logs it: a bad expression matches nothing.
        return lambda _adaptor: False
    return lambda adaptor: pattern.search(adaptor(path)[0]) is not None

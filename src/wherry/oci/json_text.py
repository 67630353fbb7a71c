"""JSON read and written by the standard library's own C code, without the package around it: that imports regular
expressions, which takes a short command longer than all that it has to do. RFC 8259.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLANKS = " \t\n\r"


class _Reading:
    """What json.JSONDecoder sets up for the scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")


_scan = _json.make_scanner(_Reading())  # type: ignore[arg-type]  # whatever has its attributes will do


def loads(data: bytes | str) -> Any:
    """Parse a document. ValueError with the place where it is none; RecursionError if it is nested too deeply."""
    text = data.decode() if isinstance(data, bytes) else data
    start = len(text) - len(text.lstrip(_BLANKS))
    try:
        value, end = _scan(text, start)
    except StopIteration as error:
        raise ValueError(f"no value at character {error.value}") from None
    rest = text[end:].lstrip(_BLANKS)
    if rest:
        raise ValueError(f"extra data at character {len(text) - len(rest)}")
    return value


def _refuse(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is no type of JSON")


def dumps(value: object, *, ascii: bool = True, colon: str = ": ", comma: str = ", ") -> str:
    """Return a document on one line, in ASCII or as it is; `colon` and `comma` are what separates. TypeError for what
    JSON has no type for."""
    string = _json.encode_basestring_ascii if ascii else _json.encode_basestring
    # The arguments of json.JSONEncoder().iterencode's own call.
    encode = _json.make_encoder({}, _refuse, string, None, colon, comma, False, False, False)
    return "".join(encode(value, 0))

"""JSON as Go's encoder writes it, byte for byte: some callers compare."""

from __future__ import annotations

from wherry.oci import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# encoding/json escapes what HTML and JavaScript would take for their own.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def encode(document: Any, indent: str = "") -> str:
    """Return a document as JSON, without a newline at its end; with `indent` in lines of it."""
    text = _lines(document, indent, "\n") if indent else json_text.dumps(document, ascii=False, colon=":", comma=",")
    return text.encode(errors="replace").decode().translate(_ESCAPES)


def _lines(value: Any, indent: str, newline: str) -> str:
    """Return a value with each member on a line of its own; `newline` ends in the indentation that it stands at."""
    inner = newline + indent
    if value and isinstance(value, dict):
        names = (json_text.dumps(name, ascii=False) for name in value)
        members = [f"{name}: {_lines(each, indent, inner)}" for name, each in zip(names, value.values(), strict=True)]
        return f"{{{inner}{f',{inner}'.join(members)}{newline}}}"
    if value and isinstance(value, list | tuple):
        return f"[{inner}{f',{inner}'.join(_lines(each, indent, inner) for each in value)}{newline}]"
    return json_text.dumps(value, ascii=False)

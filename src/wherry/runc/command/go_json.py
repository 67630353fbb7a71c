"""JSON as Go's encoder writes it, byte for byte: some callers compare."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# encoding/json escapes what HTML and JavaScript would take for their own.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def encode(document: Any, indent: str = "") -> str:
    """Return a document as JSON, without a newline at its end; with `indent` in lines of it."""
    if indent:
        text = json.dumps(document, ensure_ascii=False, indent=indent)
    else:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode(errors="replace").decode().translate(_ESCAPES)

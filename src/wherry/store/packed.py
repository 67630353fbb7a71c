"""Any values in the database: their URL and bytes, as they came. An object's extensions are one column of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

#: A type URL and the bytes behind it.
Packed = tuple[str, bytes]


def encode(extensions: Mapping[str, Packed]) -> str:
    """Return extensions as the text of their column."""
    value = {key: [url, base64.b64encode(data).decode("ascii")] for key, (url, data) in extensions.items()}
    return json.dumps(value, separators=(",", ":"))


def decode(text: str) -> dict[str, Packed]:
    """Return the extensions of a column's text."""
    return {key: (url, base64.b64decode(data)) for key, (url, data) in json.loads(text).items()}


def updated(old: Mapping[str, Packed], new: Mapping[str, Packed], key: str) -> dict[str, Packed]:
    """Return extensions after an update of one key; it goes if the new ones lack it."""
    made = dict(old)
    if key in new:
        made[key] = new[key]
    else:
        made.pop(key, None)
    return made

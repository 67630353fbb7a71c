"""Labels: their limits, and field masks that name them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping

from wherry.errors import InvalidArgument

#: Bytes of a key and its value together.
MAX_SIZE = 4096

_SHOWN = 10


def validate(labels: Mapping[str, str], field: str = "") -> None:
    """Raise InvalidArgument, in containerd's words, for a label that is too long; `field` is what holds the labels."""
    for key, value in labels.items():
        total = len(key.encode()) + len(value.encode())
        if total > MAX_SIZE:
            shown = key if len(key) <= _SHOWN else key[:_SHOWN]
            text = (
                f"label key and value length ({total} bytes) greater than maximum size ({MAX_SIZE} bytes), key: {shown}"
            )
            raise InvalidArgument(f"{field}: {text}" if field else text)


def encode(labels: Mapping[str, str]) -> str:
    """Return labels as they are stored: those with an empty value are none."""
    return json.dumps({key: value for key, value in labels.items() if value}, separators=(",", ":"), sort_keys=True)


def decode(text: str) -> dict[str, str]:
    """Return stored labels."""
    if text == "{}":
        return {}  # as most have it, in thousands of rows
    labels: dict[str, str] = json.loads(text)
    return labels


def updated(
    old: Mapping[str, str], new: Mapping[str, str], paths: Iterable[str], prefix: str = "labels"
) -> dict[str, str]:
    """Return labels after an update whose mask has these paths: ``labels`` replaces all, ``labels.K`` sets K.

    A path is one literal key, dots and slashes included; an empty value removes it. Paths of other fields are
    passed over.
    """
    labels = dict(old)
    for path in paths:
        if path == prefix:
            labels = dict(new)
        elif path.startswith(prefix + "."):
            key = path[len(prefix) + 1 :]
            labels[key] = new.get(key, "")
    return {key: value for key, value in labels.items() if value}


def check_mask(paths: Iterable[str], allowed: Collection[str], what: str) -> None:
    """Raise InvalidArgument for a path that is neither an allowed field nor one key of an allowed map.

    Maps are named with a trailing dot: ``labels.``.
    """
    for path in paths:
        if path in allowed or any(entry.endswith(".") and path.startswith(entry) for entry in allowed):
            continue
        raise InvalidArgument(f'cannot update "{path}" field on {what}')

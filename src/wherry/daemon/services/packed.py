"""Any fields of messages, and what the stores keep of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wherry.api.wellknown_pb2 import Any as AnyMessage
from wherry.store.packed import Packed


def message(packed: Packed | None) -> AnyMessage | None:
    """Return the field of a kept value."""
    return AnyMessage(type_url=packed[0], value=packed[1]) if packed is not None else None


def messages(packed: Mapping[str, Packed]) -> dict[str, AnyMessage]:
    """Return the map field of kept values."""
    return {key: AnyMessage(type_url=url, value=value) for key, (url, value) in packed.items()}


def field(holder: Any, name: str) -> Packed | None:
    """Return what is kept of a message's field; None if it is not set."""
    if not holder.HasField(name):
        return None
    value = getattr(holder, name)
    return value.type_url, value.value

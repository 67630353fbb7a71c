"""Messages as what JSON can say, for programs to read: every field under its own name, unset ones too.

Times are RFC 3339 in UTC, or null; enumerations are words; an Any is its type and what it holds, if that is known here.
"""

from __future__ import annotations

import base64
import importlib
import json
import time

from wherry.api import typeurl
from wherry.errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from google.protobuf.message import Message

    from wherry.api import wellknown_pb2

#: The modules that know what is packed under a type URL that begins so.
_MODULES = {
    "containerd.events.": "wherry.api.events.events_pb2",
    "containerd.services.images.v1.": "wherry.api.services.images.v1.images_pb2",
    "containerd.runc.v1.": "wherry.api.runtime.runc.v1.options_pb2",
    "containerd.linux.runc.": "wherry.api.runtime.linux.runctypes.runc_pb2",
    "io.containerd.cgroups.v1.": "wherry.api.metrics.cgroups.v1.metrics_pb2",
    "io.containerd.cgroups.v2.": "wherry.api.metrics.cgroups.v2.metrics_pb2",
}
_JSON = "types.containerd.io/opencontainers/"


def document(message: Message) -> dict[str, Any]:
    """Return a message as a JSON object."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def unpacked(packed: wellknown_pb2.Any) -> Any:
    """Return what an Any holds: a message's document, a JSON value; the bytes in base64 if its type is not known."""
    if packed.type_url.startswith(_JSON):
        try:
            return json.loads(packed.value)
        except ValueError:
            return _base64(packed.value)
    for prefix, module in _MODULES.items():
        if packed.type_url.startswith(prefix):
            importlib.import_module(module)
            break
    try:
        return document(typeurl.unpack(packed))
    except Error:
        return _base64(packed.value)


def nanoseconds(stamp: wellknown_pb2.Timestamp) -> int | None:
    """Return a time in nanoseconds since the epoch; None for one that is not set."""
    return typeurl.nanoseconds(stamp)


def rfc3339(stamp: wellknown_pb2.Timestamp) -> str | None:
    """Return a time in UTC, to the nanosecond where it has them; None for one that is not set."""
    since_epoch = nanoseconds(stamp)
    if since_epoch is None:
        return None
    seconds, fraction = divmod(since_epoch, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09}".rstrip("0").rstrip(".") + "Z"


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if hasattr(value, "items"):
        if field.message_type.fields_by_name["value"].message_type is None:
            return dict(sorted(value.items()))
        return {str(key): _message(each) for key, each in sorted(value.items())}
    if hasattr(value, "extend"):
        return [_single(field, each) for each in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _message(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name.lower() if named is not None else value
    if isinstance(value, bytes):
        return _base64(value)
    return value


def _message(message: Any) -> Any:
    name = message.DESCRIPTOR.full_name
    if name == "wherry.wellknown.Timestamp":
        return rfc3339(message)
    if name == "wherry.wellknown.Any":
        return {"type": message.type_url, "value": unpacked(message)}
    return document(message)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()

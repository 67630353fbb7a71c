"""Any and its type URLs as containerd writes them: the bare full name of a message, or a name for JSON."""

from __future__ import annotations

import time

from wherry.api.wellknown_pb2 import Any, Timestamp
from wherry.errors import InvalidArgument
from wherry.protobuf import message_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
LINUX_RESOURCES = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
FEATURES = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

#: How Go's time.Time{} looks in a message: the first of January of the year 1.
ZERO_SECONDS = -62135596800


def pack(message: Message) -> Any:
    """Return an Any of a message."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpack(packed: Any) -> Message:
    """Return the message of an Any. InvalidArgument for a type that is unknown (its module not imported) or bytes that
    are not of it."""
    try:
        made: Message = message_class(packed.type_url).FromString(packed.value)
    except KeyError:
        raise InvalidArgument(f'type with url "{packed.type_url}": not found') from None
    except Exception as error:
        raise InvalidArgument(f"{packed.type_url}: {error}") from None
    return made


def timestamp(nanoseconds: int | None) -> Timestamp:
    """Return a Timestamp of nanoseconds since the epoch; of Go's zero time for None."""
    if nanoseconds is None:
        return Timestamp(seconds=ZERO_SECONDS)
    seconds, nanos = divmod(nanoseconds, 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=nanos)


def nanoseconds(stamp: Timestamp) -> int | None:
    """Return a Timestamp's nanoseconds since the epoch; None for Go's zero time and for an unset field."""
    if stamp.seconds == ZERO_SECONDS or not (stamp.seconds or stamp.nanos):
        return None
    return stamp.seconds * 1_000_000_000 + stamp.nanos


def now() -> Timestamp:
    """Return the present time."""
    return timestamp(time.time_ns())

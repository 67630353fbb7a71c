"""The event exchange: what is published goes to every subscriber whose filters it matches."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from wherry import identifiers
from wherry.api import typeurl
from wherry.api.types.types_pb2 import Envelope
from wherry.errors import Error, InvalidArgument, Unavailable
from wherry.store import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

log = logging.getLogger(__name__)

#: Events that wait for a subscriber that does not read. One more, and it is told so and cut off.
MAX_WAITING = 10_000

#: Forwarded events that are remembered: a shim sends again what it is not sure of.
_REMEMBERED = 4096


class _Subscriber:
    def __init__(self, matches: filters.Filter) -> None:
        self.matches = matches
        self.queue: asyncio.Queue[Envelope | None] = asyncio.Queue(MAX_WAITING)
        self.overrun = False


class Exchange:
    """One daemon's events. Use from its event loop."""

    def __init__(self) -> None:
        self._subscribers: set[_Subscriber] = set()
        self._forwarded: OrderedDict[bytes, None] = OrderedDict()
        #: Called with every event that a shim's processes cause, before its subscribers.
        self.observers: list[Callable[[Envelope], None]] = []

    def publish(self, namespace: str, topic: str, event: Message) -> None:
        """Publish an event of the daemon's own, stamped now."""
        self.publish_any(namespace, topic, typeurl.pack(event))

    def publish_any(self, namespace: str, topic: str, event: Any) -> None:
        """Publish a packed event. InvalidArgument for a bad namespace or topic."""
        identifiers.validate(namespace)
        validate_topic(topic)
        self._send(Envelope(timestamp=typeurl.now(), namespace=namespace, topic=topic, event=event))

    def forward(self, envelope: Envelope) -> None:
        """Pass on an event with its own time and namespace, unless it is a repeat. InvalidArgument if either is bad."""
        identifiers.validate(envelope.namespace)
        validate_topic(envelope.topic)
        if typeurl.nanoseconds(envelope.timestamp) is None:
            raise InvalidArgument("timestamp must be set on forwarded event")
        fingerprint = envelope.SerializeToString()
        if fingerprint in self._forwarded:
            return
        self._forwarded[fingerprint] = None
        if len(self._forwarded) > _REMEMBERED:
            self._forwarded.popitem(last=False)
        for observer in self.observers:
            observer(envelope)
        self._send(envelope)

    def _send(self, envelope: Envelope) -> None:
        for subscriber in list(self._subscribers):
            try:
                if subscriber.matches(_adaptor(envelope)):
                    subscriber.queue.put_nowait(envelope)
            except asyncio.QueueFull:
                subscriber.overrun = True
                self._subscribers.discard(subscriber)
                log.warning("a subscriber did not read %d events and was cut off", MAX_WAITING)

    async def subscribe(self, filters_: Sequence[str]) -> AsyncIterator[Envelope]:
        """Yield the events that match any of the filters, from now on.

        Unavailable for a subscriber that let MAX_WAITING events pile up, once it has read those.
        """
        subscriber = _Subscriber(filters.parse_all(filters_))
        self._subscribers.add(subscriber)
        try:
            while True:
                if subscriber.overrun and subscriber.queue.empty():
                    raise Unavailable(f"events were lost: {MAX_WAITING} of them were not read in time")
                envelope = await subscriber.queue.get()
                assert envelope is not None
                yield envelope
        finally:
            self._subscribers.discard(subscriber)


def validate_topic(topic: str) -> None:
    """Raise InvalidArgument unless a topic is a slash and identifiers with slashes between."""
    if not topic:
        raise InvalidArgument("topic must not be empty")
    if not topic.startswith("/"):
        raise InvalidArgument("must start with '/'")
    if len(topic) == 1:
        raise InvalidArgument("must have at least one component")
    for component in topic[1:].split("/"):
        try:
            identifiers.validate(component)
        except Error as error:
            text = error.message.removesuffix(f": {error.kind}")
            raise InvalidArgument(f'failed validation on component "{component}": {text}') from None


def _adaptor(envelope: Envelope) -> filters.Adaptor:
    def field(path: list[str]) -> tuple[str, bool]:
        if path == ["namespace"]:
            return envelope.namespace, bool(envelope.namespace)
        if path == ["topic"]:
            return envelope.topic, bool(envelope.topic)
        if path[0] == "event" and len(path) > 1:
            return _event_field(envelope, path[1:])
        return "", False

    return field


def _event_field(envelope: Envelope, path: list[str]) -> tuple[str, bool]:
    try:
        value: Any = typeurl.unpack(envelope.event)
    except Error:
        return "", False
    for index, name in enumerate(path):
        if hasattr(value, "DESCRIPTOR"):
            if name not in value.DESCRIPTOR.fields_by_name:
                return "", False
            value = getattr(value, name)
        elif hasattr(value, "get"):
            key = ".".join(path[index:])
            return (str(value[key]), True) if key in value else ("", False)
        else:
            return "", False
    return (value, bool(value)) if isinstance(value, str) else (str(value), bool(value))

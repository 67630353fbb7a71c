"""`wherryd publish`: how shims without a ttrpc connection send an event."""

from __future__ import annotations

import os

from wherry.errors import InvalidArgument, Unavailable
from wherry.protobuf import import_only_the_core

#: Seconds that an event may take.
_TIMEOUT = 5.0


def publish(address: str, topic: str, namespace: str, data: bytes) -> None:
    """Publish a serialized Any on the daemon at a gRPC address, by its ttrpc socket. Unavailable if nobody answers."""
    import_only_the_core()
    from wherry.api.services.events.v1 import events_pb2
    from wherry.api.wellknown_pb2 import Any
    from wherry.rpc.blocking_channel import BlockingTtrpcChannel
    from wherry.rpc.channel import Stub
    from wherry.rpc.context import metadata_for

    path = (address or os.environ.get("WHERRY_ADDRESS", "")).removeprefix("unix://")
    if not path:
        raise InvalidArgument("publish: --address is required")
    try:
        event = Any.FromString(data)
    except Exception:
        raise InvalidArgument("publish: standard input is no google.protobuf.Any") from None
    try:
        channel = BlockingTtrpcChannel.connect(path + ".ttrpc", _TIMEOUT)
    except OSError as error:
        raise Unavailable(f"publish: {path}.ttrpc: {(error.strerror or '').lower()}") from None
    stub = Stub(channel, events_pb2.DESCRIPTOR.services_by_name["Events"])
    request = events_pb2.PublishRequest(topic=topic, event=event)
    channel.run(stub.publish(request, metadata=metadata_for(namespace), timeout=_TIMEOUT))

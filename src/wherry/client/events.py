"""Events: what happens to containers, tasks, images and the rest, told by the daemon as it happens."""

from __future__ import annotations

from wherry.api.services.events.v1 import events_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from wherry.api.types.types_pb2 import Envelope as Envelope
    from wherry.client.client import Client


async def subscribe(client: Client, filters: Iterable[str] = ()) -> AsyncIterator[Envelope]:
    """Yield the events of all namespaces that match one of the filters, all of them if there is none.

    Unavailable when the daemon ends. Closing the iterator ends the subscription.
    """
    envelopes = client.events.subscribe(events_pb2.SubscribeRequest(filters=filters), metadata=client.metadata)
    try:
        async for envelope in envelopes:
            yield envelope
    finally:
        await envelopes.aclose()

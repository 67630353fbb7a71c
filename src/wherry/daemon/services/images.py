"""containerd.services.images.v1.Images."""

from __future__ import annotations

import asyncio
from typing import Any

from wherry.api import typeurl
from wherry.api.services.images.v1 import images_pb2 as api
from wherry.api.types.types_pb2 import Descriptor
from wherry.api.wellknown_pb2 import Empty
from wherry.daemon.collector import Collector
from wherry.daemon.exchange import Exchange
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service
from wherry.store.images import Image, ImageStore, Target

#: Images that become messages before others have their turn.
_TURN = 50


class ImagesService(Service):
    """Images' records. Their events are in the service's own package, as clients expect."""

    descriptor = api.DESCRIPTOR.services_by_name["Images"]

    def __init__(self, store: ImageStore, exchange: Exchange, collector: Collector) -> None:
        self._store = store
        self._exchange = exchange
        self._collector = collector

    async def get(self, request: Any, context: CallContext) -> api.GetImageResponse:
        return api.GetImageResponse(image=_to_message(self._store.get(context.namespace, request.name)))

    async def list(self, request: Any, context: CallContext) -> api.ListImagesResponse:
        response = api.ListImagesResponse()
        for number, image in enumerate(self._store.list(context.namespace, request.filters), start=1):
            response.images.append(_to_message(image))
            if number % _TURN == 0:
                await asyncio.sleep(0)
        return response

    async def create(self, request: Any, context: CallContext) -> api.CreateImageResponse:
        made = await self._store.create(context.namespace, _from_message(request.image), context.lease)
        event = api.ImageCreate(name=made.name, labels=made.labels)
        self._exchange.publish(context.namespace, "/images/create", event)
        return api.CreateImageResponse(image=_to_message(made))

    async def update(self, request: Any, context: CallContext) -> api.UpdateImageResponse:
        changed = await self._store.update(
            context.namespace, _from_message(request.image), request.update_mask.paths, context.lease
        )
        event = api.ImageUpdate(name=changed.name, labels=changed.labels)
        self._exchange.publish(context.namespace, "/images/update", event)
        return api.UpdateImageResponse(image=_to_message(changed))

    async def delete(self, request: Any, context: CallContext) -> Empty:
        target = request.target.digest if request.HasField("target") else ""
        await self._store.delete(context.namespace, request.name, target, context.lease)
        self._exchange.publish(context.namespace, "/images/delete", api.ImageDelete(name=request.name))
        if request.sync:
            await self._collector.collect()
        else:
            self._collector.deleted()
        return Empty()


def _to_message(image: Image) -> api.Image:
    return api.Image(
        name=image.name,
        labels=image.labels or None,
        target=Descriptor(
            media_type=image.target.media_type,
            digest=image.target.digest,
            size=image.target.size,
            annotations=image.target.annotations or None,
        ),
        created_at=typeurl.timestamp(image.created_at),
        updated_at=typeurl.timestamp(image.updated_at),
    )


def _from_message(message: Any) -> Image:
    target = message.target
    return Image(
        message.name,
        Target(target.media_type, target.digest, target.size, dict(target.annotations)),
        {key: value for key, value in message.labels.items() if value},
    )

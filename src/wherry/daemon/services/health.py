"""grpc.health.v1.Health: dockerd asks it while it reconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

from wherry.api.health.v1 import health_pb2 as api
from wherry.errors import NotFound
from wherry.rpc.context import CallContext
from wherry.rpc.service import Service


class HealthService(Service):
    """A server that answers serves: there is no state in between."""

    descriptor = api.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, services: Collection[str]) -> None:
        self._services = {"", *services}

    async def check(self, request: Any, context: CallContext) -> api.HealthCheckResponse:
        if request.service not in self._services:
            raise NotFound(f"unknown service {request.service}")
        return api.HealthCheckResponse(status=api.HealthCheckResponse.SERVING)

    async def watch(self, request: Any, context: CallContext) -> AsyncIterator[api.HealthCheckResponse]:
        known = request.service in self._services
        kinds = api.HealthCheckResponse
        yield api.HealthCheckResponse(status=kinds.SERVING if known else kinds.SERVICE_UNKNOWN)
        await asyncio.Event().wait()

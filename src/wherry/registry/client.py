"""A client of registries: OCI distribution specification 1.1, and the Docker registry HTTP API V2 before it."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Self

from wherry.registry import hosts, reference
from wherry.registry.options import AskCredentials, Credentials, CredentialsKind, Options
from wherry.registry.repository import Repository
from wherry.registry.request import Request

if TYPE_CHECKING:
    from wherry.registry.transport import Transport

__all__ = ["AskCredentials", "Client", "Credentials", "CredentialsKind", "Options", "Repository"]


class Client:
    """Connections, tokens and hosts for many repositories: ``async with Client(options) as client``."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self._transport: Transport | None = None
        self._hosts: dict[str, asyncio.Future[list[hosts.Host]]] = {}

    async def __aenter__(self) -> Self:
        module = await asyncio.to_thread(importlib.import_module, "wherry.registry.transport")
        self._transport = module.Transport(self.options)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    def repository(self, text: str) -> Repository:
        """Return the repository of a full reference: "docker.io/library/alpine:3", "localhost:5000/a/b@sha256:…".

        InvalidArgument for what is none. Nothing is asked of anybody yet.
        """
        if self._transport is None:
            raise RuntimeError("the client is not open")
        return Repository(reference.parse(text), self._transport, self._find)

    async def check(self, registry: str) -> None:
        """Return if a registry ("docker.io", "localhost:5000") takes the credentials, or wants none; mirrors are not
        asked. Unauthenticated if it does not take them; FailedPrecondition or NotFound for what is no registry;
        Unavailable."""
        if self._transport is None:
            raise RuntimeError("the client is not open")
        host = (await self._find(registry))[-1]
        about = f"registry {registry}"
        await self._transport.exchange(
            Request(about=about, method="GET", host=host, path=("",), reference=f"{registry}/")
        )

    async def _find(self, registry: str) -> list[hosts.Host]:
        """Return the hosts of a registry, which are read once."""
        if registry not in self._hosts:
            self._hosts[registry] = asyncio.ensure_future(asyncio.to_thread(hosts.find, registry, self.options))
        return await asyncio.shield(self._hosts[registry])
